"""One person, one machine: photos and films in, films and heads out. ``safa.load`` makes one.

This is the model of ``animator`` with everything around it that a user would otherwise do by hand: finding
the face, cutting it out, choosing the frame to measure motion from, and putting the result back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from safa.config.inference import TransferConfig
from safa.data.video import Frame
from safa.errors import UserError
from safa.head.model import landmarks_px
from safa.inference.animator import AnimatedBatch, Animator
from safa.inference.facebox import cut, put_back
from safa.inference.film import Film, Shot
from safa.inference.footage import Footage, open_footage
from safa.inference.framing import FaceFinder, FramedFilm, FramedFrame, frame_film, frame_photo
from safa.inference.grid import grid_picture
from safa.inference.motion import find_best_frame
from safa.inference.photo import Photo, read_photo
from safa.models.safa import Safa, SourceCache
from safa.pictures.canvas import Picture, from_tensor

LARGEST_RESULT = 1920  # px, longer side of a photo that the result is put back into

Item = TypeVar("Item")
BestFrame = int | Literal["find"]


@dataclasses.dataclass(frozen=True)
class Source:
    """A face to animate.

    Attributes:
        photo: (H, W, 3), the whole photo.
        square: (3,) px, where the face is in it.
        face: (S, S, 3), cut out.
        cache: all the model knows of it.
        notes: for the user.
    """

    photo: Picture
    square: NDArray[np.float64]
    face: Picture
    cache: SourceCache
    notes: tuple[str, ...]


class FaceAnimator:
    """A model, ready for photos and films.

    Args:
        model: on its device, from ``safa.training.checkpoint.load_model``.
        device: where to run it.
        precision: of convolutions; positions and renders keep float32.
        batch_size: driving frames at once.
        finder: how faces are found where no landmarks lie beside a file; None = the middle square is taken.
    """

    def __init__(
        self,
        model: Safa,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        batch_size: int = 8,
        finder: FaceFinder | None = None,
    ) -> None:
        self.engine = Animator(model, device, batch_size)
        self.size = self.engine.size  # px, of the square that the model sees
        self._device, self._precision, self._batch_size = device, precision, batch_size
        self._finder = finder

    def animate(
        self,
        source: str | Path | Picture,
        driving: str | Path | Iterable[Frame],
        *,
        relative: bool = False,
        adapt_scale: bool = False,
        best_frame: BestFrame | None = None,
        with_eyes: bool = False,
        crop: bool = True,
        paste_back: bool = False,
        fps: float | None = None,
        max_frames: int | None = None,
    ) -> Film:
        """Animate the face of a photo with the motion of a film. Frames are made as they are asked for.

        Args:
            source: photo, as a path or (H, W, 3) uint8 RGB.
            driving: path of a video, gif, photo or folder of pictures; a camera's number; or frames.
            relative: take on changes of pose, not the pose itself.
            adapt_scale: with ``relative``, fit the motion to the size of the face.
            best_frame: with ``relative``, the driving frame that motion is measured from: a number from 0, or
                "find" for the one most like the source; None = the first.
            with_eyes: the eyes, too, are taken from the photo's texture.
            crop: find the face; else the middle square is taken as it is.
            paste_back: return the result in the whole photo instead of its square.
            fps: rate to read the film at; None = its own.
            max_frames: stop after so many frames.

        Raises:
            UserError: an input that cannot be read, or shows no face. Also while frames are made.
        """
        transfer = TransferConfig(
            mode="relative" if relative else "absolute",
            adapt_scale=adapt_scale,
            best_frame=best_frame is not None,
        )
        footage = open_footage(driving, fps).limited(max_frames)
        subject = self.source(source, with_eyes=with_eyes, crop=crop, largest=LARGEST_RESULT)
        framed = frame_film(footage, self._finder, crop=crop)
        reference = self._reference(framed, footage, subject, best_frame)
        crops = (cut(item.frame, item.square, self.size) for item in framed.open())
        batches = self.in_precision(self.engine.animate(subject.cache, crops, transfer, reference))
        shots = _shots(batches, subject, paste_back=paste_back)
        return _film(footage, subject.notes + framed.notes, shots)

    def reconstruct(self, clip: str | Path | Iterable[Frame], *, crop: bool = True) -> Film:
        """Rebuild a film from its first frame: how good the model is with this face.

        Raises:
            UserError: as ``animate``.
        """
        footage = open_footage(clip)
        framed = frame_film(footage, self._finder, crop=crop)
        first = next(framed.open(), None)
        if first is None:
            raise UserError("holds no frame with a face", footage.name, "Give another video.")
        face = cut(first.frame, first.square, self.size)
        subject = Source(first.frame, first.square, face, self.prepare(face), ())
        crops = (cut(item.frame, item.square, self.size) for item in framed.open())
        batches = self.in_precision(self.engine.reconstruct(subject.cache, crops))
        return _film(footage, framed.notes, _shots(batches, subject, paste_back=False))

    def source(
        self,
        source: str | Path | Picture,
        *,
        with_eyes: bool = False,
        crop: bool = True,
        largest: int | None = None,
    ) -> Source:
        """Read a photo, find the face and do all work on it that does not depend on what drives it.

        Args:
            largest: px; a larger photo is scaled down to it, its face is cut out before.

        Raises:
            UserError: not a readable photo, or no face in it.
        """
        path = Path(source) if isinstance(source, str | Path) else None
        photo = read_photo(path) if path else Photo(np.asarray(source))
        framed = frame_photo(photo.pixels, path, self._finder, crop=crop)
        face = cut(photo.pixels, framed.square, self.size)
        pixels, square, note = _fitted(photo.pixels, framed.square, largest)
        cache = self.prepare(face, with_eyes=with_eyes)
        return Source(pixels, square, face, cache, photo.notes + framed.notes + note)

    @torch.inference_mode()
    def prepare(self, face: Picture, *, with_eyes: bool = False) -> SourceCache:
        """All the model knows of a face (S, S, 3)."""
        with self._autocast():
            cache = self.engine.prepare(face)
            if not with_eyes:
                return cache
            albedo = self.engine.model.tdmm.texture(cache.image, cache.side.geometry, with_eyes=True)
            return dataclasses.replace(cache, albedo=albedo)

    @torch.inference_mode()
    def landmarks(self, face: Picture) -> NDArray[np.float32]:
        """The 3D head's 68 landmarks (68, 2), px of the face (S, S, 3)."""
        points: NDArray[np.float32] = self._landmarks([face])[0]
        return points

    def in_precision(self, items: Iterator[Item]) -> Iterator[Item]:
        """Each item computed in the chosen precision, which does not leak to the caller in between."""
        while True:
            with self._autocast():
                item = next(items, None)
            if item is None:
                return
            yield item

    def frame_film(self, footage: Footage, *, crop: bool) -> FramedFilm:
        """The squares of a film."""
        return frame_film(footage, self._finder, crop=crop)

    def _reference(
        self, framed: FramedFilm, footage: Footage, subject: Source, best: BestFrame | None
    ) -> Picture | None:
        """The driving frame that motion is measured from; None = the first."""
        if best is None:
            return None
        if not footage.again:
            raise UserError("has no best frame, as it is seen once", footage.name, "Record a video.")
        number = self._most_alike(framed, subject) if best == "find" else best
        item = next(islice(framed.open(), number, None), None) if number >= 0 else None
        if item is None:
            raise UserError(f"has no frame {number}", footage.name, "The first one is frame 0.")
        return cut(item.frame, item.square, self.size)

    def _most_alike(self, framed: FramedFilm, subject: Source) -> int:
        """The driving frame whose 3D head looks most like the source's."""
        crops = (cut(item.frame, item.square, self.size) for item in framed.open())
        found = [self._landmarks(batch) for batch in _batched(crops, self._batch_size)]
        return find_best_frame(self.landmarks(subject.face), np.concatenate(found))

    @torch.inference_mode()
    def _landmarks(self, faces: list[Picture]) -> NDArray[np.float32]:
        tdmm = self.engine.model.tdmm
        with self._autocast():
            code = tdmm.estimate(self.engine.to_batch(faces)).code
        points: NDArray[np.float32] = landmarks_px(tdmm.geometry(code), self.size).float().cpu().numpy()
        return points

    def _autocast(self) -> torch.autocast:
        half = self._precision != torch.float32
        return torch.autocast(self._device.type, dtype=self._precision if half else None, enabled=half)


def _shots(batches: Iterator[AnimatedBatch], subject: Source, *, paste_back: bool) -> Iterator[Shot]:
    for batch in batches:
        for i in range(len(batch.driving)):
            picture = from_tensor(batch.result.prediction[i])
            if paste_back:
                picture = put_back(subject.photo, subject.square, picture)
            yield Shot(picture, from_tensor(batch.driving[i]), True, grid_of(subject, batch, i))


def grid_of(subject: Source, batch: AnimatedBatch, i: int) -> Callable[[], Picture]:
    """``grid_picture`` of a frame, drawn only if somebody asks."""
    keypoints = subject.cache.face.keypoints.value[0].float().cpu().numpy()
    return partial(grid_picture, subject.face, keypoints, batch, i)


def _film(footage: Footage, notes: tuple[str, ...], shots: Iterator[Shot]) -> Film:
    return Film(footage.fps, footage.count, notes, footage.file if footage.has_sound else None, shots)


def _batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chosen := list(islice(iterator, size)):
        yield chosen


def _fitted(
    pixels: Picture, square: NDArray[np.float64], largest: int | None
) -> tuple[Picture, NDArray[np.float64], tuple[str, ...]]:
    """A photo no larger than ``largest``, and its square there."""
    longest = max(pixels.shape[:2])
    if largest is None or longest <= largest:
        return pixels, square, ()
    from PIL import Image

    scale = largest / longest
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    return small, square * scale, ()


__all__ = ["BestFrame", "FaceAnimator", "FramedFrame", "Source"]
