"""One person, one machine: photos and films in, films and heads out. ``safa.load`` makes one.

This is the model of ``animator`` with everything around it that a user would otherwise do by hand: finding
the face, cutting it out, choosing the frame to measure motion from, and putting the result back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
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
from safa.inference.facebox import cut
from safa.inference.film import Film, Shot
from safa.inference.footage import Footage, open_footage
from safa.inference.framing import FaceFinder, FramedFilm, frame_film, frame_people, frame_photo
from safa.inference.heads import Head
from safa.inference.mesh import reconstruct_heads
from safa.inference.motion import find_best_frame
from safa.inference.photo import Photo, read_photo
from safa.inference.source import Source, scaled_to, shots_of
from safa.inference.swap import HeadOutline, SwapMask
from safa.inference.swapping import swapped_shots
from safa.models.safa import Safa, SourceCache
from safa.pictures.canvas import Picture

LARGEST_RESULT = 1920  # px, longer side of a photo that the result is put back into

Item = TypeVar("Item")
BestFrame = int | Literal["find"]


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
        self.device, self.batch_size = device, batch_size
        self._precision = precision
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
        shots = shots_of(batches, subject, paste_back=paste_back)
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
        return _film(footage, framed.notes, shots_of(batches, subject, paste_back=False))

    def swap(
        self,
        source: str | Path | Picture,
        driving: str | Path | Iterable[Frame],
        *,
        mask: SwapMask | None = None,
        crop: bool = True,
        max_frames: int | None = None,
    ) -> Film:
        """Put the face of a photo into a film; frames that show no face go through untouched.

        Args:
            mask: where in a driving frame the face goes, e.g. of ``load_mask``; None = the outline of
                the 3D head.
            crop: find the faces; else the middle squares are taken as they are.
            max_frames: stop after so many frames.

        Raises:
            UserError: as ``animate``.
        """
        footage = open_footage(driving).limited(max_frames)
        subject = self.source(source, crop=crop)
        framed = frame_film(footage, self._finder, crop=crop)
        place = HeadOutline(self.engine.model.tdmm) if mask is None else mask

        def swapped(crops: list[Picture]) -> Iterator[AnimatedBatch]:
            return self.in_precision(self.engine.swap(subject.cache, crops, place))

        shots = swapped_shots(subject, framed, swapped, self.size, self.batch_size)
        return _film(footage, subject.notes + framed.notes, shots)

    def mesh(self, photo: str | Path | Picture, *, crop: bool = True) -> Head:
        """The 3D head of the largest face in a photo.

        Raises:
            UserError: not a readable photo, or no face in it.
        """
        return self.meshes(photo, crop=crop)[0]

    def meshes(self, photo: str | Path | Picture, *, crop: bool = True) -> list[Head]:
        """The 3D heads of all faces in a photo, the largest first.

        Landmarks beside the file know of one face, and so does a photo that is cut already.

        Raises:
            UserError: not a readable photo, or no face in it.
        """
        path = Path(photo) if isinstance(photo, str | Path) else None
        pixels = read_photo(path).pixels if path else np.asarray(photo)
        squares = frame_people(pixels, path, self._finder, crop=crop)
        return [self.head(pixels, square) for square in squares]

    def head(self, frame: Picture, square: NDArray[np.float64]) -> Head:
        """The 3D head in a square of a frame."""
        face = cut(frame, square, self.size)
        with self._autocast():
            batch = next(reconstruct_heads(self.engine, [face]))
        return Head(frame, square, batch, self.engine.model.tdmm)

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
        pixels, square = scaled_to(photo.pixels, framed.square, largest)
        cache = self.prepare(face, with_eyes=with_eyes)
        return Source(pixels, square, face, cache, photo.notes + framed.notes)

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
        found = [self._landmarks(batch) for batch in _batched(crops, self.batch_size)]
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
        return torch.autocast(self.device.type, dtype=self._precision if half else None, enabled=half)


def _film(footage: Footage, notes: tuple[str, ...], shots: Iterator[Shot]) -> Film:
    return Film(footage.fps, footage.count, notes, footage.file if footage.has_sound else None, shots)


def _batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chosen := list(islice(iterator, size)):
        yield chosen
