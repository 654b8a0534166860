"""Backgrounds: what stands still behind a person, out of focus. One picture per video."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

RgbImage = NDArray[np.float64]  # (H, W, 3) sRGB in [0, 1]
Colour = NDArray[np.float64]  # (3,)


def _colour(rng: Generator, low: float, high: float, saturation: float) -> Colour:
    """A random colour of a given range of brightness; saturation 0 is grey."""
    hue = rng.uniform(0, 2 * np.pi)
    wheel = np.cos(hue - np.array([0, 2 * np.pi / 3, 4 * np.pi / 3]))
    return np.clip(rng.uniform(low, high) * (1 + saturation * wheel), 0, 1)


def _grid(size: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows and columns of the picture as fractions of its height, so that squares look square."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width] / height
    return y, x


def _blend(first: RgbImage, second: RgbImage, share: NDArray[np.float64]) -> RgbImage:
    """``first`` where share (H, W) is 0, ``second`` where it is 1."""
    picture: RgbImage = first + (second - first) * share[..., None]
    return picture


def _gradient(rng: Generator, size: tuple[int, int]) -> RgbImage:
    y, x = _grid(size)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.cos(angle) * (x - x.mean()) + np.sin(angle) * (y - y.mean())
    ramp = (ramp - ramp.min()) / np.ptp(ramp)
    first, second = _colour(rng, 0.3, 0.8, 0.2), _colour(rng, 0.2, 0.65, 0.2)
    return _blend(first, second, ramp)


def _box(picture: RgbImage, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
    """Fill a box given in fractions of the height, in place."""
    height = picture.shape[0]
    a, b, c, d = (round(v * height) for v in (left, top, right, bottom))
    picture[max(b, 0) : max(d, 0), max(a, 0) : max(c, 0)] = colour


def _wall(rng: Generator, size: tuple[int, int]) -> RgbImage:
    y, x = _grid(size)
    falloff = 1 - 0.25 * np.abs(x - rng.uniform(0, x.max())) - 0.15 * y
    picture: RgbImage = _colour(rng, 0.5, 0.85, 0.12) * falloff[..., None]
    return picture


def _window(rng: Generator, size: tuple[int, int]) -> RgbImage:
    picture = _wall(rng, size)
    side, top = rng.uniform(-0.15, 0.55), rng.uniform(-0.1, 0.15)
    width, height = rng.uniform(0.3, 0.5), rng.uniform(0.45, 0.7)
    frame = _colour(rng, 0.6, 0.95, 0.05)
    _box(picture, side - 0.03, top - 0.03, side + width + 0.03, top + height + 0.03, frame)
    for row in range(2):
        for column in range(2):
            glass = _colour(rng, 0.8, 0.98, 0.02) * np.array([0.92, 0.97, 1.0])
            a, b = side + column * width / 2, top + row * height / 2
            _box(picture, a + 0.012, b + 0.012, a + width / 2 - 0.012, b + height / 2 - 0.012, glass)
    return picture


def _shelf(rng: Generator, size: tuple[int, int]) -> RgbImage:
    picture = _wall(rng, size) * 0.6
    wood = _colour(rng, 0.25, 0.5, 0.0) * np.array([1.2, 0.9, 0.65])
    width = size[1] / size[0]
    board = rng.uniform(0.22, 0.3)
    for top in np.arange(rng.uniform(-0.2, 0.0), 1.0, board):
        left = 0.0
        while left < width:
            book = rng.uniform(0.02, 0.055)
            height = rng.uniform(0.55, 0.85) * board
            if rng.random() < 0.85:
                cover = _colour(rng, 0.15, 0.55, 0.3)
                _box(picture, left, top + board - height, left + book, top + board, cover)
            left += book
        _box(picture, 0, top + board - 0.022, width, top + board, wood)
    return picture


def _stripes(rng: Generator, size: tuple[int, int]) -> RgbImage:
    _, x = _grid(size)
    phase = x * rng.uniform(4, 12) * 2 * np.pi
    share = 0.5 + 0.5 * np.tanh(3 * np.sin(phase))
    first = _colour(rng, 0.4, 0.8, 0.12)
    second = np.clip(first * rng.uniform(0.75, 0.9), 0, 1)
    return _blend(first, second, share)


def _bricks(rng: Generator, size: tuple[int, int]) -> RgbImage:
    y, x = _grid(size)
    brick_h, brick_w = 0.07, 0.17
    row = np.floor(y / brick_h).astype(int)
    shifted = x / brick_w + 0.5 * (row % 2)
    column = np.floor(shifted).astype(int)
    tone = rng.uniform(0.8, 1.15, size=(row.max() + 1, column.max() + 1))[row, column]
    joint = (y / brick_h % 1 < 0.10) | (shifted % 1 < 0.05)
    brick = _colour(rng, 0.35, 0.6, 0.0) * (np.array([1.2, 0.8, 0.7]) if rng.random() < 0.6 else np.ones(3))
    return np.where(joint[..., None], brick * 1.3, brick * tone[..., None])


def _lights(rng: Generator, size: tuple[int, int]) -> RgbImage:
    y, x = _grid(size)
    picture = _gradient(rng, size) * 0.45
    for _ in range(rng.integers(10, 22)):
        radius = rng.uniform(0.03, 0.09)
        distance = np.hypot(x - rng.uniform(0, x.max()), y - rng.uniform(0, 0.9))
        disc = 1 / (1 + np.exp((distance - radius) / 0.006))
        picture = picture + rng.uniform(0.15, 0.45) * disc[..., None] * _colour(rng, 0.6, 0.9, 0.25)
    return picture


def _garden(rng: Generator, size: tuple[int, int]) -> RgbImage:
    y, _ = _grid(size)
    sky, leaf = np.array([0.70, 0.82, 0.93]), _colour(rng, 0.25, 0.45, 0.0) * np.array([0.75, 1.1, 0.55])
    leaves = np.sum([gaussian_filter(rng.standard_normal(size), s) * s for s in (4.0, 8.0, 14.0)], axis=0)
    tall = 1 / (1 + np.exp((rng.uniform(0.1, 0.4) - y + 0.05 * leaves) / 0.02))
    return _blend(sky, leaf * (1 + 0.35 * leaves[..., None]), tall)


_KINDS: tuple[Callable[[Generator, tuple[int, int]], RgbImage], ...] = (
    _gradient,
    _window,
    _shelf,
    _stripes,
    _bricks,
    _lights,
    _garden,
)


def paint_backdrop(rng: Generator, size: tuple[int, int]) -> NDArray[np.float32]:
    """A background of (height, width) = ``size``: (H, W, 3) sRGB float32 in [0, 1]."""
    picture = _KINDS[rng.integers(len(_KINDS))](rng, size)
    blur = rng.uniform(0.006, 0.016) * size[0]
    blurred: RgbImage = gaussian_filter(np.clip(picture, 0, 1), (blur, blur, 0))
    grain = gaussian_filter(rng.standard_normal(size), 1.2) * 0.02
    noisy: RgbImage = np.clip(blurred * rng.uniform(0.75, 1.0) + grain[..., None], 0.02, 0.98)
    return noisy.astype(np.float32)
