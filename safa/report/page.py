"""The page of an evaluation: report content to one HTML file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from safa.config.inference import Mode
from safa.evaluation.results import ClipResult
from safa.files import Location, atomic_write, split
from safa.messages import count, duration
from safa.metrics import COPY_SOURCE, CSIM, FID, METRICS, PER_CLIP, PSNR, Metric
from safa.report.charts import Histogram, histogram, training_charts
from safa.report.clip_views import ClipViewer, psnr_gain
from safa.report.content import LEAST_CLIPS, Headline, ReportContent, headlines
from safa.report.rendering import HEADINGS, definitions, format_interval, format_number, format_score, render
from safa.report.titles import full_ids
from safa.report.views import (
    Card,
    Definition,
    FailureRow,
    ModeSection,
    OpeningView,
    ShareRow,
    TrainingSection,
)

MOUTH = "mouth_opening_correlation"
FEATURED = 3  # worst and best reconstructions, shown with video and strip
FEATURED_OF_MODE = 12  # clips of every other mode, shown likewise; the tables list all
MOST_ROWS = 2000  # of a table; the files beside the page have all

# Modes without a target, and what there is to see.
OTHER_MODES: tuple[tuple[Mode, str], ...] = (
    (
        "animation",
        "The face of one person (before the arrow) with the motion of another (after it). "
        "There is no target to compare with: judge by eye. Copying the source has a CSIM of 1.",
    ),
    (
        "swap",
        "The face of one person (before the arrow) in the clip of another (after it); the last panel of "
        "a strip is bright where the face goes. There is no target to compare with: judge by eye.",
    ),
    (
        "mesh",
        "The 3D head of every frame. White landmarks came with the data, green ones are the 3DMM's. "
        "Parameters and vertices of all frames are in mesh.parquet in the clip's folder.",
    ),
)


def write_page(content: ReportContent, path: Location) -> None:
    """Write the page atomically; the clips' folders must lie beside it already."""
    atomic_write(path, render_page(content, split(path)[0]))


def render_page(content: ReportContent, folder: Location) -> str:
    """Return the page's HTML.

    Args:
        folder: where the page will lie; strips are read from there.
    """
    reconstructed = sorted(content.of_mode("reconstruction"), key=psnr_gain)
    # A few clips are all shown, worst first; of many only both ends.
    shown = [result for result in reconstructed if result.shown]
    few = len(shown) <= 2 * FEATURED
    worst, best = (shown, []) if few else (shown[:FEATURED], shown[-FEATURED:][::-1])
    lines = headlines(content.results, content.fid)
    measured = [line.metric for line in lines if line.metric in PER_CLIP]
    viewer = ClipViewer(folder, content.results)
    return render(
        "page.html",
        content=content,
        opening=_opening(content, reconstructed, viewer),
        cards=[_card(line, len(reconstructed)) for line in lines],
        summary=_summary(content, lines),
        skipped=[Definition(m.label, content.skipped[m.key]) for m in METRICS if m.key in content.skipped],
        worst=[viewer.view(result, measured) for result in worst],
        best=[viewer.view(result, measured) for result in best],
        few=few,
        histograms=_histograms(reconstructed, measured),
        modes=[_mode(content, viewer, *mode) for mode in OTHER_MODES if content.of_mode(mode[0])],
        headings=_headings(measured),
        definitions=_definitions(content),
        rows=viewer.reconstruction_rows(reconstructed[:MOST_ROWS], measured),
        num_reconstructed=len(reconstructed),
        failures=[
            FailureRow(failure.name, failure.stage.rpartition("/")[2], failure.code, failure.detail)
            for failure in content.failures
        ],
        training=[
            TrainingSection(run.name, run.settings, training_charts(run.records, COPY_SOURCE))
            for run in content.runs
        ],
        stages=_stages(content),
        throughput=_throughput(content),
    )


def _opening(
    content: ReportContent, reconstructed: Sequence[ClipResult], viewer: ClipViewer
) -> OpeningView | None:
    """Choose the moving result that the page opens with, by rule and not by eye.

    It is the first animation, else the first swap, else the reconstruction of median gain, else the first 3D
    head.
    """
    choices = (
        (content.of_mode("animation"), "An animation, the first of all"),
        (content.of_mode("swap"), "A face swap, the first of all"),
        (reconstructed[len(reconstructed) // 2 :], "A reconstruction, the one in the middle by its gain"),
        (content.of_mode("mesh"), "A 3D head, the first of all"),
    )
    for results, rule in choices:
        for result in [result for result in results if result.shown][:1]:
            title = viewer.title(result)
            ids = full_ids((result.job.source, result.job.driving))
            return OpeningView(f"{rule}: {title}.", ids, viewer.video(result))
    return None


def _mode(content: ReportContent, viewer: ClipViewer, mode: Mode, note: str) -> ModeSection:
    results = content.of_mode(mode)
    # Whoever copies the source has its identity: nobody can beat that.
    lines = [
        replace(line, gain=math.nan) if line.metric is CSIM else line
        for line in headlines(results, mode=mode)
    ]
    measured = [line.metric for line in lines]
    shown = [result for result in results if result.shown]
    return ModeSection(
        name=mode,
        heading=HEADINGS[mode],
        note=note,
        cards=tuple(_card(line, len(results)) for line in lines),
        headings=_headings(measured),
        clips=tuple(viewer.view(result, measured) for result in shown[:FEATURED_OF_MODE]),
        rows=tuple(viewer.row(result, measured) for result in results[:MOST_ROWS]),
        num_clips=len(results),
    )


def _definitions(content: ReportContent) -> list[Definition]:
    """Define what the page has numbers of, or no numbers for a reason; equal definitions stand there once."""
    scores = [result.scores for result in content.results]
    shown = {key for each in scores for key, score in each.items() if math.isfinite(score)}
    has_fid = math.isfinite(content.fid[0])
    keys = shown | set(content.skipped)
    return definitions(m for m in METRICS if m.key in keys or (m is FID and has_fid))


def _headings(metrics: Sequence[Metric]) -> tuple[str, ...]:
    return tuple(f"{metric.label} {metric.unit}".rstrip() for metric in metrics)


def _card(line: Headline, total: int) -> Card:
    metric = line.metric
    gain, verdict = _verdict(line)
    few = 0 < line.n_clips < total
    return Card(
        label=metric.label,
        direction="; ".join(filter(None, (metric.direction, metric.scored))),
        clips=f"{line.n_clips} of {count(total, 'clip')}" if few else "",
        value=format_score(metric, line.value),
        interval=format_interval(metric, line.interval),
        copy_source=format_score(metric, line.copy_source),
        gain=gain,
        verdict=verdict,
    )


def _verdict(line: Headline) -> tuple[str, str]:
    """How the model differs from what has to be beaten, in words, and the verdict (``Card``)."""
    metric, few = line.metric, 0 < line.n_clips < LEAST_CLIPS
    if metric.chance is not None:
        side, better = ("above", "better") if line.value > metric.chance else ("below", "worse")
        is_certain = not few and line.interval.known and not line.interval.holds(metric.chance)
        return f"{side} {metric.chance:g}", better if is_certain else "unclear"
    if not math.isfinite(line.gain):
        return "", "none"
    if float(format_number(metric, line.gain)) == 0:
        return "", "same"
    better = "better" if line.gain > 0 else "worse"
    gain = format_score(metric, abs(line.gain)).replace("%", "points")  # a difference of shares is no share
    return f"{better} by {gain}", "unclear" if few or line.gain_interval.holds(0.0) else better


def _summary(content: ReportContent, lines: Sequence[Headline]) -> str:
    """Sum up the results in a sentence or two."""
    reconstructed = content.of_mode("reconstruction")
    parts = []
    if reconstructed:
        people = count(len({result.driving_person for result in reconstructed}), "person", "people")
        frames = count(sum(result.n_frames for result in reconstructed), "frame")
        parts.append(f"{count(len(reconstructed), 'clip')} of {people} reconstructed ({frames})")
    if animated := content.of_mode("animation"):
        parts.append(f"{count(len(animated), 'animation')} of one person by another")
    if swapped := content.of_mode("swap"):
        parts.append(f"{count(len(swapped), 'face swap')}")
    if meshes := content.of_mode("mesh"):
        parts.append(f"{count(len(meshes), 'clip')} reconstructed in 3D")
    text = f"{_enumerated(parts) or 'No clip was evaluated'}."
    psnr = next((line for line in lines if line.metric is PSNR), None)
    if psnr is not None and math.isfinite(psnr.gain):
        verb = "beats" if psnr.gain > 0 else "falls behind"
        text += (
            f" Reconstruction {verb} copying the source, a still picture, by {abs(psnr.gain):.2f} dB PSNR."
        )
    mouth = next((line for line in lines if line.metric.key == MOUTH), None)
    if mouth is not None:
        opens = f"{mouth.value:.2f} (1 is exact, 0 is chance)"
        text += f" Mouths open with the drivers' at a correlation of {opens}."
    return text


def _enumerated(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def _histograms(results: Sequence[ClipResult], metrics: Sequence[Metric]) -> list[Histogram]:
    """Lay out the distribution of clips for each metric."""
    charts = []
    for metric in metrics:
        sides = [
            [result.scores.get(metric.key + side, math.nan) * metric.display_scale for result in results]
            for side in ("", COPY_SOURCE)
        ]
        unit = f", {metric.unit}" if metric.unit else ""
        charts.append(histogram(f"{metric.label}{unit}", *sides))
    return [chart for chart in charts if chart is not None]


def _stages(content: ReportContent) -> list[ShareRow]:
    """View the wall time of each stage."""
    longest = max(content.seconds.values(), default=0) or 1
    return [ShareRow(name, duration(s), 100 * s / longest) for name, s in content.seconds.items()]


def _throughput(content: ReportContent) -> str:
    frames = sum(result.n_frames for result in content.results)
    seconds = sum(result.seconds for result in content.results)
    if not seconds:
        return ""
    work = f"{count(frames, 'frame')} in {duration(seconds)} of work"
    return f"{work}: {frames / seconds:.1f} frames/s for one worker process, writing of videos included."
