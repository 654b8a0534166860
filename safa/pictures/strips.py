"""Strips: for some frames of a clip, one row of labelled panels that show what the model did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safa.pictures.canvas import Picture, caption, enlarge, side_by_side, stacked

GAP = 3  # px between panels
CAPTION_SHARE = 1 / 7  # of a panel's height


@dataclass(frozen=True)
class Panel:
    """A picture and what it shows."""

    label: str
    picture: Picture


def chosen_frames(n_frames: int, count: int) -> tuple[int, ...]:
    """Evenly spaced frame numbers for the rows of a strip.

    The middles of equal parts of the clip, so that the first frame, which is the source of a reconstruction,
    is no row of its own. Fewer than ``count`` for a clip that has not so many.
    """
    count = min(count, n_frames)
    return tuple(int((i + 0.5) * n_frames / count) for i in range(count))


def captioned(panels: Sequence[Panel], panel: int) -> Picture:
    """One row of panels, each enlarged to ``panel`` px, under their labels."""
    row = _enlarged(panels, panel)
    return stacked([_labels(row, panel), _pictures(row)])


def strip(rows: Sequence[Sequence[Panel]], panel: int) -> Picture:
    """Rows of panels, each enlarged to ``panel`` px, under one row of labels.

    Raises:
        ValueError: no rows, or rows of different panels.
    """
    labels = {tuple(item.label for item in row) for row in rows}
    if len(labels) != 1:
        raise ValueError(f"a strip needs rows of the same panels, not {sorted(labels)}")
    large = [_enlarged(row, panel) for row in rows]
    return stacked([_labels(large[0], panel), *map(_pictures, large)], GAP)


def caption_height(panel: int) -> int:
    """Of the bar with the labels, px."""
    return round(panel * CAPTION_SHARE)


def _enlarged(panels: Sequence[Panel], panel: int) -> list[Panel]:
    return [Panel(item.label, enlarge(item.picture, panel)) for item in panels]


def _pictures(row: Sequence[Panel]) -> Picture:
    return side_by_side([item.picture for item in row], GAP)


def _labels(row: Sequence[Panel], panel: int) -> Picture:
    height = caption_height(panel)
    return side_by_side([caption(item.label, item.picture.shape[1], height) for item in row], GAP)
