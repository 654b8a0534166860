"""The page of a preprocessing run: counts, distributions, and random clips with their landmarks drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from safa.data.dataset_stats import DatasetStats, Sample, SplitCounts
from safa.files import Location, atomic_write
from safa.messages import count
from safa.report.charts import histogram
from safa.report.rendering import jpeg_data_uri, render
from safa.report.titles import short_titles
from safa.report.views import Badge, SampleView, ShareRow, SplitRow
from safa.visualize.overlays import Colour, with_landmarks

PANEL = 160  # px, least side of an image on the contact sheet
COLOUR: Colour = (80, 255, 120)  # of landmarks


def write_page(path: Location, stats: DatasetStats, counts: Mapping[str, Any]) -> None:
    """Write the page atomically. It needs no other file and no network.

    Args:
        counts: how many clips are ``in``, ``ok``, ``quarantined`` and ``pending``; ``reasons`` counts those
            that are quarantined by their code.
    """
    distributions = (
        histogram("Length of clips, seconds", stats.seconds, ()),
        histogram("Shorter side of the crop box in the source video, px", stats.box_px, ()),
    )
    page = render(
        "clips.html",
        lead=_lead(stats),
        counts=_badges(counts),
        splits=[_split_row(split) for split in stats.splits],
        reasons=_reasons(counts),
        charts=[chart for chart in distributions if chart is not None],
        samples=_sample_views(stats.samples),
    )
    atomic_write(path, page)


def _lead(stats: DatasetStats) -> str:
    if not stats.clips:
        return "No clip is stored yet."
    sampled = f" Estimated from {count(stats.sampled, 'random clip')}." if stats.sampled < stats.clips else ""
    hours = f"{stats.hours:.1f} hours" if stats.hours >= 1 else f"{60 * stats.hours:.1f} minutes"
    return (
        f"{count(stats.clips, 'clip')}, together {hours}; {stats.bytes_per_frame / 1024:.1f} KiB per frame; "
        f"landmarks in {100 * stats.with_landmarks:.1f} % of the frames.{sampled}"
    )


def _badges(counts: Mapping[str, Any]) -> list[Badge]:
    return [
        Badge(f"{counts['in']} listed", ""),
        Badge(f"{counts['ok']} ok", "ok"),
        Badge(f"{counts['quarantined']} quarantined", "bad" if counts["quarantined"] else ""),
        Badge(f"{counts['pending']} pending", ""),
    ]


def _split_row(split: SplitCounts) -> SplitRow:
    refused = sorted(split.refused.items(), key=lambda item: -item[1])
    return SplitRow(
        split=split.split,
        listed=str(split.listed),
        ok=str(split.ok),
        people=str(split.people),
        share=f"{100 * split.ok / split.listed:.1f} %" if split.listed else "",
        refused=", ".join(f"{code.replace('_', ' ')} {number}" for code, number in refused) or "none",
    )


def _reasons(counts: Mapping[str, Any]) -> list[ShareRow]:
    reasons = sorted(counts["reasons"].items(), key=lambda item: -item[1])
    listed = max(1, counts["in"])
    return [
        ShareRow(code.replace("_", " "), f"{n} ({100 * n / listed:.1f} %)", 100 * n / listed)
        for code, n in reasons
    ]


def _sample_views(samples: Sequence[Sample]) -> list[SampleView]:
    titles = short_titles((sample.clip_id, sample.clip_id) for sample in samples)
    return [_sample_view(sample, titles[sample.clip_id, sample.clip_id]) for sample in samples]


def _sample_view(sample: Sample, title: str) -> SampleView:
    drawn = Image.fromarray(with_landmarks(sample.image, [(sample.landmarks, COLOUR)], PANEL))
    drawn.thumbnail((2 * PANEL, 2 * PANEL))
    return SampleView(title, sample.clip_id, jpeg_data_uri(drawn), drawn.width, drawn.height)
