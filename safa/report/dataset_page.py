"""The page of a preprocessing run: counts, distributions, and random clips with their landmarks drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from safa.data.dataset_stats import DatasetStats, Sample
from safa.files import Location, atomic_write
from safa.messages import count
from safa.report.charts import bins
from safa.report.rendering import jpeg_data_uri, render
from safa.report.views import SampleView, ShareRow
from safa.visualize.overlays import Colour, with_landmarks

PANEL = 160  # px, least side of an image on the contact sheet
COLOUR: Colour = (80, 255, 120)  # of landmarks
BINS = 12  # of a histogram


def write_page(path: Location, stats: DatasetStats, counts: Mapping[str, Any]) -> None:
    """Write the page atomically. It needs no other file and no network.

    Args:
        counts: how many clips are ``in``, ``ok``, ``quarantined`` and ``pending``; ``reasons`` counts those
            that are quarantined by their code.
    """
    page = render(
        "clips.html",
        stats=stats,
        summary=f"{count(counts['in'], 'clip')}: {counts['ok']} ok, {counts['quarantined']} quarantined, "
        f"{counts['pending']} pending",
        reasons=_reasons(counts),
        lengths=_histogram(stats.seconds),
        sizes=_histogram(stats.box_px),
        samples=[SampleView(sample.clip_id, _data_uri(sample)) for sample in stats.samples],
    )
    atomic_write(path, page)


def _reasons(counts: Mapping[str, Any]) -> list[ShareRow]:
    reasons = sorted(counts["reasons"].items(), key=lambda item: -item[1])
    return [ShareRow(code, str(n), 100 * n / counts["quarantined"]) for code, n in reasons]


def _histogram(values: Sequence[float]) -> list[ShareRow]:
    """Return one row per bin; no rows if there are no values."""
    if not values:
        return []
    low, high = min(values), max(values)
    filled = bins(values, low, high, BINS if high > low else 1)
    tallest = max(item.count for item in filled)
    return [
        ShareRow(f"{item.low:.3g} to {item.high:.3g}", str(item.count), 100 * item.count / tallest)
        for item in filled
    ]


def _data_uri(sample: Sample) -> str:
    drawn = Image.fromarray(with_landmarks(sample.image, [(sample.landmarks, COLOUR)], PANEL))
    return jpeg_data_uri(drawn, (2 * PANEL, 2 * PANEL))
