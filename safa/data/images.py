"""Encoded pictures: uint8 RGB frames to bytes and back."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from safa.config.preprocess import EncodingConfig


def encode_image(frame: NDArray[np.uint8], encoding: EncodingConfig) -> bytes:
    """(H, W, 3) uint8 RGB to JPEG or PNG bytes."""
    buffer = io.BytesIO()
    picture = Image.fromarray(frame)
    if encoding.format == "png":
        picture.save(
            buffer, "png", compress_level=1
        )  # higher levels save a few per cent for 5 times the time
    else:
        # No chroma subsampling: lips and eyes are a few pixels wide at 64 to 256 px.
        picture.save(buffer, "jpeg", quality=encoding.quality, subsampling=0)
    return buffer.getvalue()


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """Bytes of a picture to (H, W, 3) uint8 RGB.

    Raises:
        ValueError: the bytes are not a whole picture.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise ValueError(f"not a readable picture: {error}") from None
