"""The page of a preprocessing run: counts, distributions, and random clips with their landmarks drawn."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from safa.data.dataset_stats import DatasetStats, Sample, bins
from safa.files import atomic_write
from safa.report.rendering import render
from safa.visualize.overlays import with_landmarks

PANEL = 160  # px of a picture on the contact sheet
COLOUR = (80, 255, 120)
QUALITY = 85


def write_page(path: Path, stats: DatasetStats, counts: Mapping[str, Any]) -> None:
    """Write the page, atomically. It needs no other file and no network."""
    page = render(
        "clips.html",
        stats=stats,
        counts=counts,
        lengths=bins(stats.seconds),
        sizes=bins(stats.box_px),
        samples=[(sample.clip_id, _address(sample)) for sample in stats.samples],
    )
    atomic_write(path, page)


def _address(sample: Sample) -> str:
    """The frame with its landmarks as an address that holds the picture itself."""
    drawn = Image.fromarray(with_landmarks(sample.image, [(sample.landmarks, COLOUR)], PANEL))
    drawn.thumbnail((2 * PANEL, 2 * PANEL))
    buffer = io.BytesIO()
    drawn.save(buffer, "jpeg", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
