"""A face that is to be animated, with the photo it comes from; and the frames that come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from safa.inference.animator import AnimatedBatch
from safa.inference.facebox import put_back
from safa.inference.film import Shot
from safa.inference.grid import grid_picture
from safa.models.safa import SourceCache
from safa.pictures.canvas import Picture, from_tensor


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

    photo: Picture
    square: NDArray[np.float64]
    face: Picture
    cache: SourceCache
    notes: tuple[str, ...]


def shots_of(batches: Iterator[AnimatedBatch], subject: Source, *, paste_back: bool) -> Iterator[Shot]:
    """Animated frames one by one, in the whole photo if they are to go back."""
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


def scaled_to(
    pixels: Picture, square: NDArray[np.float64], largest: int | None
) -> tuple[Picture, NDArray[np.float64]]:
    """A photo whose longer side is at most ``largest`` px, and its square there."""
    longest = max(pixels.shape[:2])
    if largest is None or longest <= largest:
        return pixels, square
    scale = largest / longest
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)), square * scale
