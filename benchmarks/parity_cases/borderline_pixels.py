"""Pixels of the face masks that hang on the last digit of a vertex.

A mask is 1 where the texture's colour is not exactly 0. At the rim of the texture a colour can be 1e-7 or 0
for vertices that differ by rounding alone, and such a pixel moves a prediction by up to 1.5e-3 around it.
Here these pixels are found by moving the vertices within their rounding noise, and can be taken the other
way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from safa.head.model import HeadGeometry
from safa.head.render import HeadRender, RenderedSide
from safa.models.tdmm import Tdmm

# Two float32 computations of a vertex, each off by up to 7e-7.
VERTEX_NOISE = 1.4e-6  # screen units
MOVES = 16  # random moves of all vertices
PIXELS = 4  # as many of a sample's borderline pixels are tried either way
CHOICES = 2**PIXELS  # 0 takes every pixel as it is

# The maps that each mask multiplies.
MASKED = {
    "source_mask": ("source", "source_mask", "source_normals", "source_uv"),
    "driving_mask": ("reenact", "driving_mask", "driving_normals", "driving_uv", "motion_field"),
}


@dataclass(frozen=True)
class Pixel:
    """A borderline pixel and, for each map, its values when it is taken the other way."""

    sample: int
    row: int
    column: int
    values: Mapping[str, Tensor]


class BorderlinePixels:
    """Stands in for ``Tdmm.render`` and can toggle borderline pixels."""

    def __init__(self, tdmm: Tdmm) -> None:
        self._render = tdmm.render
        self._choice = 0
        self._calls: Iterator[int] = iter(())
        self._found: dict[int, list[Pixel]] = {}  # by number of the call within a case

    @contextmanager
    def tried(self) -> Iterator[Callable[[int], None]]:
        """Around the repetitions of one case: yields a function that sets the choice for the next repetition.

        Bit k of the choice toggles each sample's k-th borderline pixel.
        """

        def choose(choice: int) -> None:
            self._choice, self._calls = choice, iter(range(1_000))

        try:
            yield choose
        finally:
            self._choice, self._found = 0, {}

    def __call__(
        self, source: HeadGeometry | RenderedSide, driving: HeadGeometry, albedo: Tensor
    ) -> HeadRender:
        plain = self._render(source, driving, albedo)
        if self._choice == 0:
            return plain
        call = next(self._calls)
        if call not in self._found:
            self._found[call] = self._borderline(plain, source, driving, albedo)
        maps = {name: getattr(plain, name).clone() for names in MASKED.values() for name in names}
        for sample in range(len(plain.reenact)):
            own = [pixel for pixel in self._found[call] if pixel.sample == sample]
            for bit, pixel in enumerate(own[:PIXELS]):
                if self._choice >> bit & 1:
                    for name, value in pixel.values.items():
                        maps[name][sample, :, pixel.row, pixel.column] = value
        return replace(plain, **maps)

    def _borderline(
        self, plain: HeadRender, source: HeadGeometry | RenderedSide, driving: HeadGeometry, albedo: Tensor
    ) -> list[Pixel]:
        """The pixels whose mask changes when the vertices move within their rounding noise."""
        still = source.geometry if isinstance(source, RenderedSide) else source
        rng = torch.Generator().manual_seed(0)
        found: dict[tuple[str, int, int, int], Pixel] = {}
        for _ in range(MOVES):
            moved = self._render(_moved(still, rng), _moved(driving, rng), albedo)
            for mask, names in MASKED.items():
                different = getattr(moved, mask) != getattr(plain, mask)
                for sample, _, row, column in different.nonzero().tolist():
                    values = {name: getattr(moved, name)[sample, :, row, column] for name in names}
                    found.setdefault((mask, sample, row, column), Pixel(sample, row, column, values))
        return list(found.values())


def _moved(geometry: HeadGeometry, rng: torch.Generator) -> HeadGeometry:
    noise = VERTEX_NOISE * (2 * torch.rand(geometry.vertices.shape, generator=rng) - 1)
    return replace(geometry, vertices=geometry.vertices + noise)
