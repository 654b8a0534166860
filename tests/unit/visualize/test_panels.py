from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safa.visualize.panels import (
    GAP,
    STRIP_CAPTION_SHARE,
    Panel,
    caption_height,
    captioned,
    chosen_frames,
    strip,
)


def panels(*labels: str, side: int = 16) -> list[Panel]:
    return [Panel(label, np.full((side, side, 3), 200, np.uint8)) for label in labels]


@given(st.integers(1, 400), st.integers(1, 20))
def test_chosen_frames_rise_and_fit(n_frames: int, count: int) -> None:
    frames = chosen_frames(n_frames, count)
    assert len(frames) == min(count, n_frames)
    assert all(0 <= frame < n_frames for frame in frames)
    assert sorted(set(frames)) == list(frames)


def test_the_source_frame_is_not_among_them() -> None:
    assert chosen_frames(96, 6) == (8, 24, 40, 56, 72, 88)


def test_panels_of_different_sizes_meet_at_one_height() -> None:
    row = panels("source") + panels("flow", side=8)
    assert captioned(row, 32).shape == (caption_height(32) + 32, 32 + GAP + 32, 3)


def test_a_strip_has_its_labels_once() -> None:
    image = strip([panels("source", "driving")] * 3, 32)
    assert image.shape == (caption_height(32, STRIP_CAPTION_SHARE) + 3 * (GAP + 32), 2 * 32 + GAP, 3)


def test_rows_of_different_panels_are_refused() -> None:
    with pytest.raises(ValueError, match="same panels"):
        strip([panels("source"), panels("driving")], 32)
    with pytest.raises(ValueError, match="same panels"):
        strip([], 32)
