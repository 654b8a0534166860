"""A face that is to be animated, with the photo it comes from; and the frames that come of it.

XXX ``safa swap``: the source's face in every frame of a video that shows one; others go through untouched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from safa.inference.face_crop import crop_face, paste_face
from safa.inference.face_tracking import TrackedVideo
from safa.inference.video_output import RenderedFrame
from safa.models.safa import AnimatedBatch, SourceCache
from safa.visualize.grids import grid_picture
from safa.visualize.images import RgbImage, from_tensor


@dataclass(frozen=True)
class Source:
    """A face to animate.

    Attributes:
        photo: (H, W, 3), the whole photo.
        square: (3,) px, where the face is in it.
        face: (S, S, 3), cut out.
        cache: all the model knows of it.
        notes: for the user.
    """

    photo: RgbImage
    crop_box: NDArray[np.float64]
    face: RgbImage
    cache: SourceCache
    notes: tuple[str, ...]


def rendered_frames_of(
    batches: Iterator[AnimatedBatch], subject: Source, *, paste_back: bool
) -> Iterator[RenderedFrame]:
    """Animated frames one by one, in the whole photo if they are to go back."""
    for batch in batches:
        for i in range(len(batch.driving)):
            picture = from_tensor(batch.result.prediction[i])
            if paste_back:
                picture = paste_face(subject.photo, subject.crop_box, picture)
            yield RenderedFrame(picture, from_tensor(batch.driving[i]), True, grid_of(subject, batch, i))


def grid_of(subject: Source, batch: AnimatedBatch, i: int) -> Callable[[], RgbImage]:
    """``grid_picture`` of a frame, drawn only if somebody asks."""
    keypoints = subject.cache.face.keypoints.value[0].float().cpu().numpy()
    return partial(grid_picture, subject.face, keypoints, batch, i)


def scaled_to(
    pixels: RgbImage, crop_box: NDArray[np.float64], largest: int | None
) -> tuple[RgbImage, NDArray[np.float64]]:
    """A photo whose longer side is at most ``largest`` px, and its square there."""
    longest = max(pixels.shape[:2])
    if largest is None or longest <= largest:
        return pixels, crop_box
    scale = largest / longest
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)), crop_box * scale


Swapped = Callable[[list[RgbImage]], Iterator[AnimatedBatch]]  # driving crops to the swapped ones


def swapped_frames(
    subject: Source, tracked: TrackedVideo, swapped: Swapped, size: int, batch_size: int
) -> Iterator[RenderedFrame]:
    """All frames of a video in order, ``batch_size`` at once; those without a face as they are."""
    frames = tracked.open()
    while chunk := list(islice(frames, batch_size)):
        crops = [crop_face(item.frame, item.crop_box, size) for item in chunk if item.seen]
        done = ((batch, i) for batch in swapped(crops) for i in range(len(batch.driving)))
        for item in chunk:
            if not item.seen:
                yield RenderedFrame(item.frame, item.frame, False, None)
                continue
            batch, i = next(done)
            picture = paste_face(item.frame, item.crop_box, from_tensor(batch.result.prediction[i]))
            yield RenderedFrame(picture, item.frame, True, grid_of(subject, batch, i))
