"""The model for one person at one machine: photos and videos in, videos and 3D heads out.

``FaceAnimator`` wraps a ``ModelRunner`` with the steps that a user would otherwise do by hand: find the face,
crop it, choose the frame that motion is measured from, and paste the result back. ``safa.load`` makes one.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from safa.batching import batched
from safa.config import parse_settings
from safa.config.inference import SwapConfig, TransferConfig
from safa.errors import UserError
from safa.head.model import landmarks_px
from safa.inference.compose import Source, animated_frames, enlargement_note, fit_photo, swapped_frames
from safa.inference.face_crop import CropBox, crop_face
from safa.inference.face_tracking import FaceSearch, TrackedVideo, crop_people, crop_photo, track_video
from safa.inference.inputs import FrameSource
from safa.inference.mesh import Head, reconstruct_heads
from safa.inference.model_runner import ModelRunner
from safa.inference.motion_transfer import NoFaceGeometryError, find_best_frame
from safa.inference.options import (
    BestFrame,
    FaceOption,
    check_animate_options,
    check_face,
    check_max_frames,
    check_max_seconds,
    check_size,
    check_switches,
)
from safa.inference.pictures import PathLike, Picture, Video, frame_source_of, path_of, photo_of, to_location
from safa.inference.presentation import presented
from safa.inference.read_ahead import read_ahead
from safa.inference.swap_mask import HeadOutline, SwapMask, load_mask, parse_classes
from safa.inference.trackers import FaceTracker
from safa.inference.video_output import RenderedFrame, RenderedVideo
from safa.messages import count
from safa.models.safa import AnimatedBatch, Safa, SourceCache
from safa.models.tdmm import Tdmm
from safa.paths import local_path
from safa.visualize.images import RgbImage

READ_AHEAD = 4  # frames that are decoded and cropped beyond a batch while the model runs
LARGEST_RESULT = 1920  # px, longer side of a photo that the result is pasted into


class FaceAnimator:
    """A model that takes photos and videos as they are.

    Args:
        model: from ``safa.checkpoint.native.load_model``.
        device: where to run it.
        precision: of convolutions; positions and renders keep float32.
        batch_size: driving frames that pass through the model at once; None chooses by the device.
        face_tracker: finds faces; None if there is nothing that could.
        about: which model it is and what can be expected of it, in words.
        sidecars: whether landmarks beside a file come before the tracker.
        notes: what was chosen for this machine, one sentence each.

    Attributes:
        model: the networks.
        runner: runs the model on faces that are cropped already.
        size: px, side of the square crop that the model sees.
        about, notes: as given.
        precision: name of the dtype that convolutions run in.
    """

    def __init__(
        self,
        model: Safa,
        device: torch.device,
        precision: torch.dtype = torch.float32,
        batch_size: int | None = None,
        face_tracker: FaceTracker | None = None,
        about: str = "",
        *,
        sidecars: bool = True,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.runner = ModelRunner(model, device, batch_size, precision)
        self.model = self.runner.model
        self.size = self.runner.size
        self.device, self.batch_size = device, self.runner.batch_size
        self.precision = str(precision).removeprefix("torch.")
        self.about, self.notes = about, notes
        self._search = FaceSearch(face_tracker, sidecars)

    def __repr__(self) -> str:
        faces = self.detector or "no face detector"
        return f"FaceAnimator({self.size} px, {self.device}, {self.precision}, {faces})"

    @property
    def detector(self) -> str:
        """Name of the face detector; empty if there is none."""
        return "" if self._search.tracker is None else self._search.tracker.name

    @property
    def tdmm(self) -> Tdmm:
        """The 3D morphable head model that is part of the model."""
        return self.model.tdmm

    # ---- videos ----------------------------------------------------------------------------------------

    def animate(
        self,
        source: Picture,
        driving: Video,
        *,
        relative: bool = False,
        adapt_scale: bool = False,
        best_frame: BestFrame | None = None,
        with_eyes: bool = False,
        crop: bool = True,
        face: FaceOption = None,
        driving_face: FaceOption = None,
        paste_back: bool = False,
        size: int | None = None,
        side_by_side: bool = False,
        fps: float | None = None,
        max_frames: int | None = None,
        max_seconds: float | None = None,
    ) -> RenderedVideo:
        """Animate the face in a photo with the motion of a video.

        Args:
            source: photo: a path, a PIL image, or an array or tensor (H, W), (H, W, 3), (H, W, 4) or
                (3, H, W), of uint8 or of floats in [0, 1].
            driving: path of a video, GIF, photo or folder of images; a camera's number; or anything that
                yields pictures like ``source``.
            relative: transfer changes of pose instead of the pose itself.
            adapt_scale: with ``relative``, scale the motion by the sizes of the two faces.
            best_frame: with ``relative``, the driving frame that motion is measured from: its number,
                counted from 0, or "find" for the one most like the source; None is the first with a face.
            with_eyes: take the eyes, too, from the photo's texture.
            crop: find the face; otherwise the centre square is used.
            face: which face of the photo: its number, 1 for the largest, or a place (x, y) in px of the
                photo; None is the largest. Landmarks beside the file know of one face, and don't count then.
            driving_face: which face of the video, the same way, in the first frame that shows it.
            paste_back: return the whole photo instead of the crop.
            size: px, side that results are enlarged to, with the photo's details where the model shows its
                pixels (``safa.inference.detail``); None is the model's own.
            side_by_side: show source, driving frame and result beside each other.
            fps: frames per second to read the video at; None is its own rate.
            max_frames: stop after this many frames.
            max_seconds: stop after this much of the video.

        Returns:
            A video whose frames are computed as they are asked for.

        Raises:
            UserError: an input cannot be read or shows no face; also while frames are computed.
        """
        check_animate_options(
            relative=relative,
            adapt_scale=adapt_scale,
            best_frame=best_frame,
            fps=fps,
            max_frames=max_frames,
        )
        check_switches(with_eyes=with_eyes, crop=crop, paste_back=paste_back, side_by_side=side_by_side)
        check_size(size, paste_back=paste_back)
        check_max_seconds(max_seconds)
        check_face("face", face, crop=crop)
        check_face("driving_face", driving_face, crop=crop)
        transfer = TransferConfig(
            mode="relative" if relative else "absolute",
            adapt_scale=adapt_scale,
            best_frame=best_frame is not None,
        )
        frame_source = frame_source_of(driving, fps).limited(max_frames, max_seconds)
        prepared = self.source(source, with_eyes=with_eyes, crop=crop, face=face, longest_side=LARGEST_RESULT)
        tracked = self.track_video(frame_source, crop=crop, face=driving_face)
        reference = self._reference_frame(tracked, frame_source, prepared, best_frame) if relative else None

        def frames() -> Iterator[RenderedFrame]:
            crops = self._crops(tracked)
            batches = self.runner.animate(prepared.cache, crops, transfer, reference)
            results = animated_frames(batches, prepared, paste_back=paste_back, size=size)
            shown = None
            if side_by_side:
                shown = prepared.photo if paste_back else prepared.picture(size or self.size)
            return presented(results, shown, size)

        notes = prepared.notes + tracked.notes
        if relative and best_frame is None and tracked.first_seen:
            where = f"frame {tracked.first_seen}, the first with a face"
            notes += (f"{frame_source.name}: motion is measured from {where}",)
        if paste_back:
            notes += enlargement_note(prepared, self.size)
        return _rendered_video(frame_source, notes, frames, _files((source, driving)))

    def reconstruct(self, clip: Video, *, crop: bool = True) -> RenderedVideo:
        """Reconstruct a video from its first frame with a face, which shows how well the model knows it.

        Raises:
            UserError: as ``animate``.
        """
        check_switches(crop=crop)
        frame_source = frame_source_of(clip)
        tracked = self.track_video(frame_source, crop=crop)
        first = next((item for item in tracked.open() if item.seen), None)
        if first is None:
            raise UserError("no frame shows a face", frame_source.name, "Give another video.")
        face = crop_face(first.frame, first.crop_box, self.size)
        prepared = Source(first.frame, first.crop_box, face, self.prepare(face), ())

        def frames() -> Iterator[RenderedFrame]:
            batches = self.runner.reconstruct(prepared.cache, self._crops(tracked))
            return animated_frames(batches, prepared, paste_back=False)

        return _rendered_video(frame_source, tracked.notes, frames, _files((clip,)))

    def swap(
        self,
        source: Picture,
        driving: Video,
        *,
        mask: SwapMask | None = None,
        source_shape: bool = False,
        crop: bool = True,
        face: FaceOption = None,
        driving_face: FaceOption = None,
        side_by_side: bool = False,
        max_frames: int | None = None,
        max_seconds: float | None = None,
    ) -> RenderedVideo:
        """Put the face in a photo into a video; frames without a face pass through unchanged.

        Args:
            mask: where in a driving frame the face goes, from ``swap_mask``; None is the outline of the
                3D head.
            source_shape: draw the shape of the photo's head, which is nearer to that person but need not
                fill the place of the driving face, instead of that of each driving frame.
            crop: find the faces; otherwise the centre squares are used.
            face: which face of the photo, as in ``animate``.
            driving_face: which face of the video, as in ``animate``.
            side_by_side: show source, driving frame and result beside each other.
            max_frames: stop after this many frames.
            max_seconds: stop after this much of the video.

        Raises:
            UserError: as ``animate``.
        """
        check_switches(source_shape=source_shape, crop=crop, side_by_side=side_by_side)
        check_max_frames(max_frames)
        check_max_seconds(max_seconds)
        check_face("face", face, crop=crop)
        check_face("driving_face", driving_face, crop=crop)
        if mask is not None and not callable(getattr(mask, "of", None)):
            fix = "Make one with animator.swap_mask(...)."
            raise UserError(f"is of type {type(mask).__name__}, which is no mask", "mask", fix)
        frame_source = frame_source_of(driving).limited(max_frames, max_seconds)
        prepared = self.source(source, crop=crop, face=face)
        tracked = self.track_video(frame_source, crop=crop, face=driving_face)
        region = HeadOutline(self.tdmm) if mask is None else mask

        def run_swap(crops: list[RgbImage]) -> Iterator[AnimatedBatch]:
            return self.runner.swap(prepared.cache, crops, region, source_shape=source_shape)

        def frames() -> Iterator[RenderedFrame]:
            results = swapped_frames(prepared, tracked, run_swap, self.size, self.batch_size)
            return presented(results, prepared.picture(None) if side_by_side else None, None)

        notes = prepared.notes + tracked.notes
        return _rendered_video(frame_source, notes, frames, _files((source, driving)))

    def swap_mask(
        self,
        weights: PathLike | None = None,
        classes: str | Iterable[str] | None = None,
        *,
        hard: bool = False,
    ) -> SwapMask:
        """Make a mask for ``swap``.

        Args:
            weights: of a face parser (BiSeNet, 19 classes), .pth or .safetensors; None is the outline of the
                3D head.
            classes: what is swapped, of ``safa.config.inference.FACE_CLASS_NAMES``, ``eyes``, ``brows``,
                ``lips`` or ``ears``; None is the whole face with ears and neck.
            hard: a mask of 0 and 1 instead of soft edges.

        Raises:
            UserError: the file holds no face parser, or it has no such class.
        """
        check_switches(hard=hard)
        settings = {
            "weights": None if weights is None else str(to_location("weights", weights)),
            "classes": None if classes is None else parse_classes(classes),
            "hard": hard,
        }
        return load_mask(parse_settings(settings, SwapConfig, "swap_mask"), self.tdmm, self.device)

    # ---- 3D heads --------------------------------------------------------------------------------------

    def mesh(self, photo: Picture, *, crop: bool = True) -> Head:
        """Reconstruct the 3D head of the largest face in a photo.

        Raises:
            UserError: the photo cannot be read or shows no face.
        """
        return self.meshes(photo, crop=crop)[0]

    def meshes(self, photo: Picture, *, crop: bool = True, face: FaceOption = None) -> list[Head]:
        """Reconstruct the 3D heads of all faces in a photo, the largest first.

        There is one head where landmarks lie beside the photo, and one where ``crop`` is False.

        Args:
            face: this one alone, as in ``animate``.

        Raises:
            UserError: the photo cannot be read or shows no face.
        """
        check_switches(crop=crop)
        check_face("face", face, crop=crop)
        pixels = photo_of(photo).pixels
        crop_boxes = crop_people(pixels, path_of(photo), self._search, crop=crop, face=face)
        return [self.head(pixels, crop_box) for crop_box in crop_boxes]

    def head(self, frame: RgbImage, crop_box: CropBox) -> Head:
        """Reconstruct the 3D head inside a crop box (3,) px of a frame (H, W, 3)."""
        face = crop_face(frame, crop_box, self.size)
        batch = next(reconstruct_heads(self.runner, [face]))
        return Head(frame, crop_box, batch, self.tdmm)

    # ---- steps -----------------------------------------------------------------------------------------

    def source(
        self,
        source: Picture,
        *,
        with_eyes: bool = False,
        crop: bool = True,
        face: FaceOption = None,
        longest_side: int | None = None,
    ) -> Source:
        """Read a photo, find its face and do all work that does not depend on the driving frames.

        Args:
            face: which face, as in ``animate``.
            longest_side: px; a larger photo is scaled down to this after its face has been cropped.

        Raises:
            UserError: the photo cannot be read or shows no face.
        """
        photo = photo_of(source)
        cropped = crop_photo(photo.pixels, path_of(source), self._search, crop=crop, face=face)
        image = crop_face(photo.pixels, cropped.crop_box, self.size)
        pixels, crop_box = fit_photo(photo.pixels, cropped.crop_box, longest_side)
        cache = self.prepare(image, with_eyes=with_eyes)
        return Source(pixels, crop_box, image, cache, photo.notes + cropped.notes)

    @torch.inference_mode()
    def prepare(self, face: RgbImage, *, with_eyes: bool = False) -> SourceCache:
        """Compute what the model needs of a source face (S, S, 3) once for all driving frames."""
        with self._autocast():
            cache = self.runner.prepare(face)
            if not with_eyes:
                return cache
            albedo = self.tdmm.texture(cache.image, cache.side.geometry, with_eyes=True)
            return dataclasses.replace(cache, albedo=albedo)

    @torch.inference_mode()
    def landmarks(self, face: RgbImage) -> NDArray[np.float32]:
        """Estimate the 68 landmarks (68, 2) px of a face (S, S, 3) with the 3D head."""
        points: NDArray[np.float32] = self._landmarks([face])[0]
        return points

    def track_video(self, frame_source: FrameSource, *, crop: bool, face: FaceOption = None) -> TrackedVideo:
        """Find the crop box of every frame of a video.

        Args:
            face: who is followed, as ``driving_face`` of ``animate``.

        Raises:
            UserError: the video cannot be read or shows no face.
        """
        return track_video(frame_source, self._search, crop=crop, face=face)

    def _crops(self, tracked: TrackedVideo) -> Iterator[RgbImage]:
        crops = (crop_face(item.frame, item.crop_box, self.size) for item in tracked.open())
        return read_ahead(crops, READ_AHEAD + self.batch_size)

    def _reference_frame(
        self, tracked: TrackedVideo, frame_source: FrameSource, source: Source, best_frame: BestFrame | None
    ) -> RgbImage | None:
        """Return the crop that motion is measured from; None stands for the first frame."""
        if best_frame is None and not tracked.first_seen:
            return None
        if not frame_source.repeatable:
            raise UserError(
                "no best frame can be chosen from a stream that is read only once",
                frame_source.name,
                "Record a video first.",
            )
        number = self._find_best_frame(tracked, source) if best_frame == "find" else best_frame
        number = tracked.first_seen if number is None else number
        item = next(islice(tracked.open(), number, None), None) if number >= 0 else None
        if item is None:
            total = sum(1 for _ in tracked.open())
            fix = f"Frames are counted from 0, so the last one is {total - 1}."
            raise UserError(f"has no frame {number}, only {count(total, 'frame')}", frame_source.name, fix)
        if not item.seen:
            fix = f"Frame {tracked.first_seen} is the first that shows one."
            raise UserError(f"frame {number} shows no face", frame_source.name, fix)
        return crop_face(item.frame, item.crop_box, self.size)

    def _find_best_frame(self, tracked: TrackedVideo, source: Source) -> int:
        """Return the number of the driving frame whose face looks most like the source's.

        Landmarks are the face detector's, or those of the 3D head where it sees none in the source.
        """
        tracker = self._search.tracker
        found = None if tracker is None else tracker.landmarks([source.face])
        is_seen = found is not None and bool(np.isfinite(found).all())
        estimate = tracker.landmarks if tracker is not None and is_seen else self._landmarks
        driving: list[NDArray[np.float32]] = []
        for items in batched(tracked.open(), self.batch_size):
            points = estimate([crop_face(item.frame, item.crop_box, self.size) for item in items])
            assert points is not None, "a tracker that knows landmarks knows them of all crops"
            points[[not item.seen for item in items]] = np.nan
            driving.append(points)
        target = estimate([source.face])
        assert target is not None
        try:
            return find_best_frame(target[0], np.concatenate(driving))
        except NoFaceGeometryError as error:
            raise UserError(f"no best frame: {error}", "", "Choose the frame by its number.") from None

    @torch.inference_mode()
    def _landmarks(self, faces: Sequence[RgbImage]) -> NDArray[np.float32]:
        with self._autocast():
            code = self.tdmm.estimate(self.runner.to_batch(list(faces))).code
        points: NDArray[np.float32] = landmarks_px(self.tdmm.geometry(code), self.size).float().cpu().numpy()
        return points

    def _autocast(self) -> torch.autocast:
        return self.runner.autocast()


def _rendered_video(
    frame_source: FrameSource,
    notes: tuple[str, ...],
    open_frames: Callable[[], Iterator[RenderedFrame]],
    inputs: tuple[Path, ...],
) -> RenderedVideo:

    def frames() -> Iterator[RenderedFrame]:
        try:
            yield from open_frames()
        except NoFaceGeometryError as error:
            fix = "Give another photo or video, or leave adapt_scale out."
            raise UserError(str(error), frame_source.name, fix) from None

    return RenderedVideo(
        frame_source.fps,
        frame_source.count,
        frame_source.notes + notes,
        frame_source.file if frame_source.has_sound else None,
        frames,
        frame_source.playback,
        inputs,
    )


def _files(inputs: Iterable[object]) -> tuple[Path, ...]:
    """The files among inputs, those of folders and lists, too, which a result must not replace."""
    files: list[Path] = []
    for each in inputs:
        if isinstance(each, FrameSource):
            files += [each.file] if each.file else []
        elif isinstance(each, list | tuple):
            files += _files(each)
        elif isinstance(each, str | os.PathLike):
            path = local_path(each, "an input")
            files += path.iterdir() if path.is_dir() else [path]
    return tuple(files)
