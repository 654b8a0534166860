"""Image files: frames to JPEG or PNG bytes and back, and folders of numbered pictures read like videos."""

from __future__ import annotations

import io
from collections.abc import Generator
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from safa.config.preprocess import EncodingConfig
from safa.data.landmarks import source_frames_at
from safa.data.video import DecodeError, Frame, VideoFrame, VideoInfo
from safa.decimals import whole
from safa.errors import UserError
from safa.image_files import FRAME_FORMATS, open_image
from safa.media_types import is_frame
from safa.reading import read_limited, reason_of

JPEG_MARKER = b"\xff\xd8"
MAX_SIDE = 16384  # px of a stored frame


def encode_image(frame: NDArray[np.uint8], encoding: EncodingConfig) -> bytes:
    """Encode a frame, (H, W, 3) uint8 RGB, as JPEG or PNG bytes."""
    buffer = io.BytesIO()
    image = Image.fromarray(frame)
    if encoding.format == "png":
        # Higher levels save a few per cent for 5 times the time.
        image.save(buffer, "png", compress_level=1)
    else:
        # No chroma subsampling: lips and eyes are a few pixels wide at 64 to 256 px.
        image.save(buffer, "jpeg", quality=encoding.quality, subsampling=0)
    return buffer.getvalue()


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Decode the bytes of an image file to (H, W, 3) uint8 RGB.

    Raises:
        ValueError: the bytes are not a complete image.
    """
    if data[:2] == JPEG_MARKER:
        return _decode_jpeg(data)
    try:
        with open_image(io.BytesIO(data), "the picture", FRAME_FORMATS) as image:
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:  # its text names an object, not a file
        raise ValueError("not a readable picture: it is of no known format") from None
    except Exception as error:  # Pillow raises whatever its parsers do
        raise ValueError(f"not a readable picture: {reason_of(error)}") from None


def _decode_jpeg(data: bytes) -> NDArray[np.uint8]:
    """Bit for bit what Pillow gives, in less than half of its time (``benchmarks/loader.py``)."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        if max(height, width) > MAX_SIDE:  # before memory is taken for it
            raise ValueError(f"{width} x {height} px")
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data)
    except Exception as error:
        raise ValueError(f"not a readable picture: {reason_of(error)}") from None
    return pixels


class ImageFolder:
    """A folder of frames ``0000000.png``, ``0000001.png``, ... (or .jpg) with the interface of a video.

    Args:
        fps: frames per second.

    Raises:
        DecodeError: no pictures, names that are not numbers, or gaps in the numbers, with which the rate
            would be wrong.
    """

    def __init__(self, folder: Path, fps: float) -> None:
        numbered = [(self._number(path), path) for path in folder.iterdir() if is_frame(path.name)]
        self._files = [path for _, path in sorted(numbered)]
        numbers = sorted(number for number, _ in numbered)
        if not numbers or numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            raise DecodeError(f"{folder}: {len(numbers)} frames, which are not numbered without gaps")
        self._fps = fps

    @staticmethod
    def _number(path: Path) -> int:
        number = whole(path.stem)
        if number is None:
            raise DecodeError(f"{path.parent}: names of frames must be numbers ({path.name!r} is none)")
        return number

    def info(self) -> VideoInfo:
        """Size, rate and length, as the header of a video has them."""
        height, width = self._read(0).shape[:2]
        return VideoInfo(width, height, self._fps, len(self._files) / self._fps)

    def frames(self, size: int, fps: float) -> Generator[VideoFrame, None, None]:
        """Yield all frames scaled to ``size`` x ``size`` by area averaging, at ``fps``; ticks are those of
        the folder's rate.

        Raises:
            DecodeError: an image that cannot be read.
        """
        count = round(len(self._files) * fps / self._fps)
        shown = -1
        for number in source_frames_at(np.arange(count), self._fps, fps):
            index = min(int(number), len(self._files) - 1)
            if index != shown:
                frame, shown = _scaled(self._read(index), size), index
            yield VideoFrame(frame, index, index)

    def _read(self, index: int) -> Frame:
        path = self._files[index]
        try:
            return decode_image(read_limited(path, "photo_bytes"))
        except UserError as error:
            raise DecodeError(str(error)) from None
        except (OSError, ValueError) as error:
            raise DecodeError(f"{path}: {error}") from None


def _scaled(frame: Frame, size: int) -> Frame:
    if frame.shape[:2] == (size, size):
        return frame
    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BOX))
