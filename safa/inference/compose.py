"""From batches of the model to finished frames: cropped faces alone, or pasted back into photo or video."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image

from safa.batching import batched
from safa.inference.detail import PhotoDetail
from safa.inference.face_crop import CropBox, crop_face, paste_face
from safa.inference.face_tracking import TrackedVideo
from safa.inference.video_output import RenderedFrame
from safa.models.safa import AnimatedBatch, SourceCache
from safa.visualize.grids import grid_image
from safa.visualize.images import RgbImage, from_tensor

LARGEST_PICTURE = 1024  # px, of a source beside a result
RunSwap = Callable[[list[RgbImage]], Iterator[AnimatedBatch]]  # driving crops (S, S, 3) to swapped faces


@dataclass(frozen=True)
class Source:
    """The face to animate, with the photo it comes from.

    Attributes:
        photo: (H, W, 3), the whole photo.
        crop_box: (3,) px of the photo, around the face.
        face: (S, S, 3), the crop that the model sees.
        cache: what the model computes from the face alone.
        notes: what was guessed or converted, for the user.
    """

    photo: RgbImage
    crop_box: CropBox
    face: RgbImage
    cache: SourceCache
    notes: tuple[str, ...]

    def picture(self, size: int | None) -> RgbImage:
        """The face as the photo shows it, (size, size, 3); None is the size of the photo's own pixels."""
        side = min(round(float(self.crop_box[2])), LARGEST_PICTURE)
        return crop_face(self.photo, self.crop_box, size or max(side, len(self.face)))


def fit_photo(photo: RgbImage, crop_box: CropBox, longest_side: int | None) -> tuple[RgbImage, CropBox]:
    """Scale a photo down to ``longest_side`` px, together with its crop box; None keeps its size."""
    longest = max(photo.shape[:2])
    if longest_side is None or longest <= longest_side:
        return photo, crop_box
    scale = longest_side / longest
    size = (round(photo.shape[1] * scale), round(photo.shape[0] * scale))
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS)), crop_box * scale


def enlargement_note(source: Source, size: int) -> tuple[str, ...]:
    """Say how much a result of ``size`` px grows when it is pasted back; nothing if it does not."""
    side = float(source.crop_box[2])
    if side <= 1.05 * size:
        return ()
    return (
        f"pasted back: the face takes {side:.0f} px of the photo and the model makes {size} px, so it is "
        f"enlarged {side / size:.1f} times and looks softer than the rest",
    )


def animated_frames(
    batches: Iterator[AnimatedBatch], source: Source, *, paste_back: bool, size: int | None = None
) -> Iterator[RenderedFrame]:
    """Yield the predictions one by one, as crops or pasted into the whole photo.

    Args:
        size: px, side of the crops, enlarged with the photo's details where the model can show them; None is
            the model's own. What is pasted back has the size of its place in the photo.
    """
    side = max(1, round(float(source.crop_box[2]))) if paste_back else size
    detail = None
    if side is not None and side > len(source.face):
        detail = PhotoDetail(source.cache.image, crop_face(source.photo, source.crop_box, side))
    for batch in batches:
        for i in range(len(batch.driving)):
            if detail is None or batch.result.source_share is None:
                image = from_tensor(batch.result.prediction[i])
            else:
                image = from_tensor(detail.of(batch.result, i))
            if paste_back:
                image = paste_face(source.photo, source.crop_box, image)
            yield RenderedFrame(image, from_tensor(batch.driving[i]), True, _grid(source, batch, i))


def swapped_frames(
    source: Source, tracked: TrackedVideo, run_swap: RunSwap, size: int, batch_size: int
) -> Iterator[RenderedFrame]:
    """Yield all frames of a video in order; those without a face pass through unchanged.

    Args:
        size: px, side of the crops that the model takes.
        batch_size: frames that are read at once.
    """
    for chunk in batched(tracked.open(), batch_size):
        crops = [crop_face(item.frame, item.crop_box, size) for item in chunk if item.seen]
        swapped = ((batch, i) for batch in run_swap(crops) for i in range(len(batch.driving)))
        for item in chunk:
            if not item.seen:
                yield RenderedFrame(item.frame, item.frame, False, None)
                continue
            batch, i = next(swapped)
            image = paste_face(item.frame, item.crop_box, from_tensor(batch.result.prediction[i]))
            yield RenderedFrame(image, item.frame, True, _grid(source, batch, i))


def _grid(source: Source, batch: AnimatedBatch, i: int) -> Callable[[], RgbImage]:
    """Return a call that draws ``grid_image`` of frame ``i``: most frames are never asked for it."""
    keypoints = source.cache.face.keypoints.value[0].float().cpu().numpy()
    return partial(grid_image, source.face, keypoints, batch, i)
