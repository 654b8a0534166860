"""Pixels of the face masks that hang on the last digit of a vertex.

A mask is 1 where the texture's colour is not exactly 0. At the rim of the texture a colour can be 1e-7 or 0
for vertices that differ by rounding alone, and such a pixel moves a prediction by up to 1.5e-3 around it.
Here these pixels are found by moving the vertices within their rounding noise, and can be taken the other
way.
"""

from __future__ import annotations

from collections import Counter
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


class Toggle:
    """Which borderline pixels are taken the other way now, in all renders of a case.

    Bit k of ``choice`` toggles each sample's k-th borderline pixel; 0 takes every pixel as it is.
    """

    def __init__(self) -> None:
        self.choice = 0
        self.found: dict[int, list[Pixel]] = {}  # by number of the render within a case
        self._renders: Iterator[int] = iter(())

    @contextmanager
    def tried(self) -> Iterator[Callable[[int], None]]:
        """Around the repetitions of a case: yields a function that sets the choice for the next one."""

        def choose(choice: int) -> None:
            self.choice, self._renders = choice, iter(range(1_000))

        try:
            yield choose
        finally:
            self.choice, self.found = 0, {}

    def next_render(self) -> int:
        """The number of the render that begins now."""
        return next(self._renders)

    def has(self, bit: int) -> bool:
        """Whether this bit toggles a pixel in any sample."""
        counts = [Counter(pixel.sample for pixel in pixels) for pixels in self.found.values()]
        return any(number > bit for count in counts for number in count.values())


class BorderlinePixels:
    """Stands in for ``Tdmm.render`` and can toggle borderline pixels. A toggled pixel has no gradient."""

    def __init__(self, tdmm: Tdmm, toggle: Toggle) -> None:
        self._render, self._toggle = tdmm.render, toggle

    def __call__(
        self, source: HeadGeometry | RenderedSide, driving: HeadGeometry, albedo: Tensor
    ) -> HeadRender:
        plain = self._render(source, driving, albedo)
        toggle = self._toggle
        if toggle.choice == 0:
            return plain
        number = toggle.next_render()
        if number not in toggle.found:
            with torch.no_grad():  # or the graphs of all moves stay in memory
                toggle.found[number] = self._borderline(plain, source, driving, albedo)
        maps = {name: getattr(plain, name).clone() for names in MASKED.values() for name in names}
        for sample in range(len(plain.reenact)):
            own = [pixel for pixel in toggle.found[number] if pixel.sample == sample]
            for bit, pixel in enumerate(own[:PIXELS]):
                if toggle.choice >> bit & 1:
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
