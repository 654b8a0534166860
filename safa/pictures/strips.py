"""Strips: for some frames of a clip, one row of labelled panels that show what the model did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from safa.pictures.canvas import Picture, caption, enlarge, side_by_side, stacked

GAP = 3  # px between panels
CAPTION = 20  # px


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


def panel_row(panels: Sequence[Panel], panel: int) -> Picture:
    """Panels side by side, each enlarged to ``panel`` px."""
    return side_by_side([enlarge(item.picture, panel) for item in panels], GAP)


def caption_row(panels: Sequence[Panel], panel: int) -> Picture:
    """The labels, as wide as ``panel_row`` of the same panels."""
    widths = [enlarge(item.picture, panel).shape[1] for item in panels]
    return side_by_side(
        [caption(item.label, width, CAPTION) for item, width in zip(panels, widths, strict=True)], GAP
    )


def captioned(panels: Sequence[Panel], panel: int) -> Picture:
    """One row of panels under their labels."""
    return stacked([caption_row(panels, panel), panel_row(panels, panel)])


def strip(rows: Sequence[Sequence[Panel]], panel: int) -> Picture:
    """Rows of panels under one row of labels.

    Raises:
        ValueError: no rows, or rows of different panels.
    """
    labels = {tuple(item.label for item in row) for row in rows}
    if len(labels) != 1:
        raise ValueError(f"a strip needs rows of the same panels, not {sorted(labels)}")
    return np.ascontiguousarray(
        stacked([caption_row(rows[0], panel), *(panel_row(row, panel) for row in rows)], GAP)
    )
