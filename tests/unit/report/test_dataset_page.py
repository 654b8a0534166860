"""The page of a preprocessing run: counts, escaped names, and images inside the page."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safa.data.dataset_stats import DatasetStats, Sample, SplitCounts
from safa.report.dataset_page import write_page

COUNTS = {"in": 5, "ok": 3, "quarantined": 2, "pending": 0, "reasons": {"decode": 2}}


def _stats(samples: tuple[Sample, ...]) -> DatasetStats:
    return DatasetStats(
        splits=(SplitCounts("train", 5, 3, 2, {"decode": 2}), SplitCounts("test", 0, 0, 0, {})),
        clips=3,
        sampled=len(samples),
        seconds=(2.0, 4.0, 4.0) if samples else (),
        box_px=(300, 310, 420) if samples else (),
        bytes_per_frame=2048.0,
        with_landmarks=0.5,
        samples=samples,
    )


def test_a_page_with_samples(tmp_path: Path) -> None:
    angle = np.linspace(0, 6, 68)
    points = np.stack([32 + 20 * np.cos(angle), 32 + 20 * np.sin(angle)], 1).astype(np.float32)
    dark = np.zeros((64, 64, 3), np.uint8)
    samples = (Sample("<b>&clip", dark, points), Sample("faceless", dark, np.full_like(points, np.nan)))
    write_page(tmp_path / "page.html", _stats(samples), COUNTS)
    page = (tmp_path / "page.html").read_text()
    assert "<b>&clip" not in page
    assert "&lt;b&gt;&amp;clip" in page
    assert all(text in page for text in ("5 listed", "3 ok", "2 quarantined", "0 pending"))
    assert "60.0 %" in page
    assert page.count("<svg") == 2  # histograms
    assert page.count("<rect") == 2 + 3  # their filled bins
    assert "2 (40.0 %)" in page  # the reason's share of all clips, not of the quarantine
    assert "1 of" not in page
    assert not re.search("https?:", page)  # it loads nothing
    drawn, bare = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        for data in re.findall(r"base64,([A-Za-z0-9+/=]+)", page)
    )
    assert drawn[..., 1].max() > 150  # green lines
    assert bare.max() < 20


def test_a_page_of_nothing(tmp_path: Path) -> None:
    counts = {"in": 1, "ok": 0, "quarantined": 0, "pending": 1, "reasons": {}}
    write_page(tmp_path / "page.html", _stats(()), counts)
    assert "There are no clips" in (tmp_path / "page.html").read_text()


def test_hours_are_those_of_all_clips() -> None:
    stats = _stats((Sample("c", np.zeros((8, 8, 3), np.uint8), np.full((68, 2), np.nan, np.float32)),))
    assert stats.hours == pytest.approx(10 / 3600)
    counts = {"split": "train", "listed": 5, "ok": 3, "people": 2, "refused": {"decode": 2}}
    assert stats.as_json()["splits"][0] == counts
