"""Report content to one HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safa.config.inference import Mode
from safa.evaluation.clip_evaluator import ClipResult
from safa.files import atomic_write
from safa.metrics import COPY_SOURCE, FRAME_METRICS, METRICS, PSNR, Metric
from safa.report.charts import Chart, Histogram, histogram, training_charts
from safa.report.clip_views import CLIPS, Row, Showcase, Showpiece, psnr_gain, row_of, rows_of
from safa.report.content import Headline, ReportContent, headlines
from safa.report.rendering import count, duration, people, render, shown, shown_interval

__all__ = ["CLIPS", "render_page", "write_page"]

FEATURED = 3  # worst and best clips shown with video and strip
PIECES = 12  # of every other mode, shown likewise; the tables have all
MOST_ROWS = 2000  # of a table; the files beside the page have all

# Modes without a truth: heading, and what one looks at.
OTHER_MODES: tuple[tuple[Mode, str, str], ...] = (
    (
        "animation",
        "Animation",
        "The face of one person (before the arrow) with the motion of another (after it). "
        "There is no truth to compare with: look.",
    ),
    (
        "swap",
        "Face swap",
        "The face of one person (before the arrow) in the clip of another (after it); the last panel "
        "is bright where it goes. There is no truth to compare with: look.",
    ),
    (
        "mesh",
        "3D reconstruction",
        "The 3D head found in every frame. In landmark pictures white is given, green is the 3DMM's. "
        "Parameters and vertices of all frames are in mesh.parquet in the clip's folder.",
    ),
)


@dataclass(frozen=True)
class Card:
    """A headline as it is shown; ``gain`` is how much better or worse it is than copying the source."""

    label: str
    value: str
    interval: str
    copy_source: str
    gain: str
    verdict: str


@dataclass(frozen=True)
class ModeView:
    """A section of a mode without truth: some clips to look at, and a row of each (up to ``MOST_ROWS``)."""

    name: str
    heading: str
    note: str
    cards: list[Card]
    pieces: list[Showpiece]
    metrics: list[Metric]
    rows: list[Row]
    total: int


@dataclass(frozen=True)
class CurveGroup:
    """The charts of one training run."""

    name: str
    settings: tuple[str, ...]
    charts: tuple[Chart, ...]


def write_page(content: ReportContent, path: Path) -> None:
    """Write the page; the clips' folders must lie beside it already. It is written atomically."""
    atomic_write(path, render_page(content, path.parent))


def render_page(content: ReportContent, folder: Path) -> str:
    """The page's text. ``folder`` is where it will lie: strips are read from there."""
    rebuilt = sorted(content.of_mode("reconstruction"), key=psnr_gain)
    # Few clips are all shown once, worst first; of many, both ends.
    few = len(rebuilt) <= 2 * FEATURED
    worst, best = (rebuilt, []) if few else (rebuilt[:FEATURED], rebuilt[-FEATURED:][::-1])
    lines = headlines(content.results, content.fid)
    measured = [line.metric for line in lines if line.metric in FRAME_METRICS]
    showcase = Showcase(folder)
    return render(
        "page.html",
        content=content,
        cards=[_card(line) for line in lines],
        summary=_summary(content, lines),
        skipped=[(m.label, content.skipped[m.key]) for m in METRICS if m.key in content.skipped],
        worst=[showcase.piece(result, measured) for result in worst],
        best=[showcase.piece(result, measured) for result in best],
        few=few,
        histograms=_histograms(rebuilt, measured),
        modes=[_mode(content, showcase, *mode) for mode in OTHER_MODES if content.of_mode(mode[0])],
        measured=measured,
        definitions=METRICS,
        rows=rows_of(rebuilt[:MOST_ROWS], measured),
        num_rebuilt=len(rebuilt),
        curves=[
            CurveGroup(r.name, r.settings, training_charts(r.records, COPY_SOURCE)) for r in content.runs
        ],
        stages=_stages(content),
        throughput=_throughput(content),
    )


def _mode(content: ReportContent, showcase: Showcase, mode: Mode, heading: str, note: str) -> ModeView:
    results = content.of_mode(mode)
    lines = headlines(results, mode=mode)
    measured = [line.metric for line in lines]
    return ModeView(
        name=mode,
        heading=heading,
        note=note,
        cards=[_card(line) for line in lines],
        pieces=[showcase.piece(result, measured) for result in results[:PIECES]],
        metrics=measured,
        rows=[row_of(result, measured) for result in results[:MOST_ROWS]],
        total=len(results),
    )


def _card(line: Headline) -> Card:
    metric = line.metric
    return Card(
        label=metric.label,
        value=shown(metric, line.value),
        interval=shown_interval(metric, line.interval),
        copy_source=shown(metric, line.copy_source),
        gain=shown(metric, abs(line.gain)),
        verdict="better" if line.gain > 0 else "worse" if line.gain < 0 else "same",
    )


def _summary(content: ReportContent, lines: Sequence[Headline]) -> str:
    """What was found, in a sentence or two."""
    rebuilt = content.of_mode("reconstruction")
    parts = []
    if rebuilt:
        persons = len({result.driving_person for result in rebuilt})
        frames = sum(result.n_frames for result in rebuilt)
        parts.append(f"{count(len(rebuilt), 'clip')} of {people(persons)} rebuilt ({frames} frames)")
    if animated := content.of_mode("animation"):
        parts.append(f"{count(len(animated), 'animation')} of one person by another")
    if swapped := content.of_mode("swap"):
        parts.append(f"{count(len(swapped), 'face')} swapped")
    if meshes := content.of_mode("mesh"):
        parts.append(f"{count(len(meshes), 'clip')} in 3D")
    text = f"{_listed(parts) or 'No clip was evaluated'}."
    psnr = next((line for line in lines if line.metric is PSNR), None)
    if psnr is not None and math.isfinite(psnr.gain):
        verb = "beats" if psnr.gain > 0 else "falls behind"
        text += f" Reconstruction {verb} copying the source by {abs(psnr.gain):.2f} dB PSNR."
    return text


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def _histograms(rebuilt: Sequence[ClipResult], metrics: Sequence[Metric]) -> list[Histogram]:
    """How clips spread, for each metric."""
    charts = []
    for metric in metrics:
        sides = [
            [result.scores.get(metric.key + side, math.nan) * metric.shown_times for result in rebuilt]
            for side in ("", COPY_SOURCE)
        ]
        unit = f", {metric.unit}" if metric.unit else ""
        charts.append(histogram(f"{metric.label}{unit}", *sides))
    return [chart for chart in charts if chart is not None]


def _stages(content: ReportContent) -> list[tuple[str, str, float]]:
    """Name, wall time as words, share of the longest in percent."""
    longest = max(content.seconds.values(), default=0) or 1
    return [(name, duration(s), 100 * s / longest) for name, s in content.seconds.items()]


def _throughput(content: ReportContent) -> str:
    frames = sum(result.n_frames for result in content.results)
    seconds = sum(result.seconds for result in content.results)
    if not seconds:
        return ""
    rate = frames / seconds
    return (
        f"{frames} frames in {duration(seconds)} of work: {rate:.1f} frames/s of one actor, videos included."
    )
