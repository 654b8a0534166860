"""One person, one machine: photos and videos in, videos and heads out. ``safa.load`` makes one.

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
from safa.inference.compose import Source, rendered_frames_of, scaled_to, swapped_frames
from safa.inference.face_crop import crop_face
from safa.inference.face_tracking import (
    FaceTracker,
    TrackedVideo,
    crop_of_photo,
    crops_of_people,
    track_video,
)
from safa.inference.inputs import FrameSource, Photo, open_frame_source, read_photo
from safa.inference.mesh import Head, reconstruct_heads
from safa.inference.model_runner import ModelRunner
from safa.inference.motion_transfer import find_best_frame
from safa.inference.swap_mask import HeadOutline, SwapMask
from safa.inference.video_output import RenderedFrame, RenderedVideo
from safa.models.safa import AnimatedBatch, Safa, SourceCache
from safa.visualize.images import RgbImage

LARGEST_RESULT = 1920  # px, longer side of a photo that the result is put back into

Item = TypeVar("Item")
BestFrame = int | Literal["find"]


class FaceAnimator:
    """A model, ready for photos and videos.

    Args:
        model: on its device, from ``safa.training.checkpoint.load_model``.
        device: where to run it.
        precision: of convolutions; positions and renders keep float32.
        batch_size: driving frames at once.
        finder: how faces are found where no landmarks lie beside a file; None = the centre square is taken.
    """

    def __init__(
        self,
        model: Safa,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        batch_size: int = 8,
        face_tracker: FaceTracker | None = None,
    ) -> None:
        self.engine = ModelRunner(model, device, batch_size)
        self.size = self.engine.size  # px, of the square that the model sees
        self.device, self.batch_size = device, batch_size
        self._precision = precision
        self._face_tracker = face_tracker

    def animate(
        self,
        source: str | Path | RgbImage,
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
    ) -> RenderedVideo:
        """Animate the face of a photo with the motion of a video. Frames are made as they are asked for.

        Args:
            source: photo, as a path or (H, W, 3) uint8 RGB.
            driving: path of a video, gif, photo or folder of pictures; a camera's number; or frames.
            relative: take on changes of pose, not the pose itself.
            adapt_scale: with ``relative``, fit the motion to the size of the face.
            best_frame: with ``relative``, the driving frame that motion is measured from: a number from 0, or
                "find" for the one most like the source; None = the first.
            with_eyes: the eyes, too, are taken from the photo's texture.
            crop: find the face; else the centre square is taken as it is.
            paste_back: return the result in the whole photo instead of its square.
            fps: rate to read the video at; None = its own.
            max_frames: stop after so many frames.

        Raises:
            UserError: an input that cannot be read, or shows no face. Also while frames are made.
        """
        transfer = TransferConfig(
            mode="relative" if relative else "absolute",
            adapt_scale=adapt_scale,
            best_frame=best_frame is not None,
        )
        frame_source = open_frame_source(driving, fps).limited(max_frames)
        subject = self.source(source, with_eyes=with_eyes, crop=crop, largest=LARGEST_RESULT)
        tracked = track_video(frame_source, self._face_tracker, crop=crop)
        reference = self._reference(tracked, frame_source, subject, best_frame)
        crops = (crop_face(item.frame, item.crop_box, self.size) for item in tracked.open())
        batches = self.in_precision(self.engine.animate(subject.cache, crops, transfer, reference))
        rendered_frames = rendered_frames_of(batches, subject, paste_back=paste_back)
        return _rendered_video(frame_source, subject.notes + tracked.notes, rendered_frames)

    def reconstruct(self, clip: str | Path | Iterable[Frame], *, crop: bool = True) -> RenderedVideo:
        """Rebuild a video from its first frame: how good the model is with this face.

        Raises:
            UserError: as ``animate``.
        """
        frame_source = open_frame_source(clip)
        tracked = track_video(frame_source, self._face_tracker, crop=crop)
        first = next(tracked.open(), None)
        if first is None:
            raise UserError("holds no frame with a face", frame_source.name, "Give another video.")
        face = crop_face(first.frame, first.crop_box, self.size)
        subject = Source(first.frame, first.crop_box, face, self.prepare(face), ())
        crops = (crop_face(item.frame, item.crop_box, self.size) for item in tracked.open())
        batches = self.in_precision(self.engine.reconstruct(subject.cache, crops))
        return _rendered_video(
            frame_source, tracked.notes, rendered_frames_of(batches, subject, paste_back=False)
        )

    def swap(
        self,
        source: str | Path | RgbImage,
        driving: str | Path | Iterable[Frame],
        *,
        mask: SwapMask | None = None,
        crop: bool = True,
        max_frames: int | None = None,
    ) -> RenderedVideo:
        """Put the face of a photo into a video; frames that show no face go through untouched.

        Args:
            mask: where in a driving frame the face goes, e.g. of ``load_mask``; None = the outline of
                the 3D head.
            crop: find the faces; else the centre squares are taken as they are.
            max_frames: stop after so many frames.

        Raises:
            UserError: as ``animate``.
        """
        frame_source = open_frame_source(driving).limited(max_frames)
        subject = self.source(source, crop=crop)
        tracked = track_video(frame_source, self._face_tracker, crop=crop)
        place = HeadOutline(self.engine.model.tdmm) if mask is None else mask

        def swapped(crops: list[RgbImage]) -> Iterator[AnimatedBatch]:
            return self.in_precision(self.engine.swap(subject.cache, crops, place))

        rendered_frames = swapped_frames(subject, tracked, swapped, self.size, self.batch_size)
        return _rendered_video(frame_source, subject.notes + tracked.notes, rendered_frames)

    def mesh(self, photo: str | Path | RgbImage, *, crop: bool = True) -> Head:
        """The 3D head of the largest face in a photo.

        Raises:
            UserError: not a readable photo, or no face in it.
        """
        return self.meshes(photo, crop=crop)[0]

    def meshes(self, photo: str | Path | RgbImage, *, crop: bool = True) -> list[Head]:
        """The 3D heads of all faces in a photo, the largest first.

        Landmarks beside the file know of one face, and so does a photo that is cut already.

        Raises:
            UserError: not a readable photo, or no face in it.
        """
        path = Path(photo) if isinstance(photo, str | Path) else None
        pixels = read_photo(path).pixels if path else np.asarray(photo)
        crop_boxes = crops_of_people(pixels, path, self._face_tracker, crop=crop)
        return [self.head(pixels, crop_box) for crop_box in crop_boxes]

    def head(self, frame: RgbImage, crop_box: NDArray[np.float64]) -> Head:
        """The 3D head in a square of a frame."""
        face = crop_face(frame, crop_box, self.size)
        with self._autocast():
            batch = next(reconstruct_heads(self.engine, [face]))
        return Head(frame, crop_box, batch, self.engine.model.tdmm)

    def source(
        self,
        source: str | Path | RgbImage,
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
        tracked = crop_of_photo(photo.pixels, path, self._face_tracker, crop=crop)
        face = crop_face(photo.pixels, tracked.crop_box, self.size)
        pixels, crop_box = scaled_to(photo.pixels, tracked.crop_box, largest)
        cache = self.prepare(face, with_eyes=with_eyes)
        return Source(pixels, crop_box, face, cache, photo.notes + tracked.notes)

    @torch.inference_mode()
    def prepare(self, face: RgbImage, *, with_eyes: bool = False) -> SourceCache:
        """All the model knows of a face (S, S, 3)."""
        with self._autocast():
            cache = self.engine.prepare(face)
            if not with_eyes:
                return cache
            albedo = self.engine.model.tdmm.texture(cache.image, cache.side.geometry, with_eyes=True)
            return dataclasses.replace(cache, albedo=albedo)

    @torch.inference_mode()
    def landmarks(self, face: RgbImage) -> NDArray[np.float32]:
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

    def track_video(self, frame_source: FrameSource, *, crop: bool) -> TrackedVideo:
        """The squares of a video."""
        return track_video(frame_source, self._face_tracker, crop=crop)

    def _reference(
        self, tracked: TrackedVideo, frame_source: FrameSource, subject: Source, best: BestFrame | None
    ) -> RgbImage | None:
        """The driving frame that motion is measured from; None = the first."""
        if best is None:
            return None
        if not frame_source.again:
            raise UserError("has no best frame, as it is seen once", frame_source.name, "Record a video.")
        number = self._most_alike(tracked, subject) if best == "find" else best
        item = next(islice(tracked.open(), number, None), None) if number >= 0 else None
        if item is None:
            raise UserError(f"has no frame {number}", frame_source.name, "The first one is frame 0.")
        return crop_face(item.frame, item.crop_box, self.size)

    def _most_alike(self, tracked: TrackedVideo, subject: Source) -> int:
        """The driving frame whose 3D head looks most like the source's."""
        crops = (crop_face(item.frame, item.crop_box, self.size) for item in tracked.open())
        found = [self._landmarks(batch) for batch in _batched(crops, self.batch_size)]
        return find_best_frame(self.landmarks(subject.face), np.concatenate(found))

    @torch.inference_mode()
    def _landmarks(self, faces: list[RgbImage]) -> NDArray[np.float32]:
        tdmm = self.engine.model.tdmm
        with self._autocast():
            code = tdmm.estimate(self.engine.to_batch(faces)).code
        points: NDArray[np.float32] = landmarks_px(tdmm.geometry(code), self.size).float().cpu().numpy()
        return points

    def _autocast(self) -> torch.autocast:
        half = self._precision != torch.float32
        return torch.autocast(self.device.type, dtype=self._precision if half else None, enabled=half)


def _rendered_video(
    frame_source: FrameSource, notes: tuple[str, ...], rendered_frames: Iterator[RenderedFrame]
) -> RenderedVideo:
    return RenderedVideo(
        frame_source.fps,
        frame_source.count,
        notes,
        frame_source.file if frame_source.has_sound else None,
        rendered_frames,
    )


def _batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chosen := list(islice(iterator, size)):
        yield chosen
