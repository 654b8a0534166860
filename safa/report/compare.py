"""Comparison of evaluations: the same clips, paired differences, and how certain they are."""

from __future__ import annotations

import json
import math
import os
import posixpath
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, get_args
from urllib.parse import quote, urlsplit

import numpy as np
from numpy.typing import NDArray

from safa.config.inference import Mode
from safa.errors import UserError
from safa.evaluation.clip_files import VIDEO
from safa.files import Location, atomic_write, exists, is_uri, join, shown
from safa.messages import count
from safa.metrics import FID, PER_CLIP, PSNR, Interval, Metric, bootstrap_interval, overall_score
from safa.reading import read_json
from safa.report.clip_views import video_view
from safa.report.content import LEAST_CLIPS, UNKNOWN_INTERVAL, ClipRecord, read_clips
from safa.report.rendering import HEADINGS, UNKNOWN, definitions, format_interval, format_number, render
from safa.report.titles import Pair, full_ids, short_titles
from safa.report.views import (
    Cell,
    ComparisonRow,
    ComparisonSection,
    DifferenceView,
    PairedClip,
    RunClip,
    RunScoreView,
    RunView,
    VideoView,
)

PAGE, NUMBERS = "index.html", "compare.json"
SHOWN_VIDEOS = 3  # clips that gained most, and as many that lost most
MOST_ROWS = 2000  # in the page; the runs' tables have the numbers of all clips
Key = tuple[str, str, str]  # mode, source, driving
SAME_NUMBERS = frozenset({"title", "out", "scale", "history", "visuals", "report", "max_unexpected"})  # keys
IN_WORDS = {
    "model_sha256": "model (SHA-256 of its weights)",
    "clips_sha256": "data set (SHA-256 of its manifest)",
    "model_step": "model, step",
}


@dataclass(frozen=True)
class Run:
    """A finished evaluation, read from its folder.

    Attributes:
        folder: where it is.
        title: title of its report.
        clips: clips by their ``key``.
        numbers: content of its ``metrics.json``.
        settings: its settings, with hashes of the model and the data set.
    """

    folder: Location
    title: str
    clips: Mapping[Key, ClipRecord]
    numbers: Mapping[str, Any]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class RunScore:
    """One run's number of a metric, and how much it differs from the first run's, clip by clip.

    Attributes:
        value: mean over clips.
        interval: of the value.
        difference: mean over clips of (this run - first run), or of their distances from the best value where
            a metric has one; NaN for the first run.
        difference_interval: of the difference.
        verdict: ``reference`` for the first run; else ``better``, ``worse``, or ``unclear`` where the
            interval of the difference contains 0, or of few clips.
    """

    value: float
    interval: Interval
    difference: float
    difference_interval: Interval
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """A metric over the clips for which all runs have a number; one score per run."""

    mode: Mode
    metric: Metric
    n_clips: int
    scores: tuple[RunScore, ...]


def read_run(folder: Location) -> Run:
    """Read a folder that ``pipelines.evaluate`` finished, or the run folder of a chain with its ``report/``.

    Raises:
        UserError: the folder holds no finished evaluation.
    """
    table = "clips.parquet"
    if not exists(join(folder, table)) and exists(join(folder, "report", table)):
        folder = join(folder, "report")
    clips = read_clips(join(folder, table))
    try:
        numbers = read_json(join(folder, "metrics.json"))
        settings = read_json(join(folder, "manifest.json"))["settings"]
        settings["model_step"] = numbers.get("model_step")
        title = str(settings["title"])
    except (UserError, KeyError, TypeError) as error:
        raise UserError(
            f"no finished evaluation ({error})", shown(folder), "Run pipelines.evaluate first."
        ) from None
    return Run(folder, title, {clip.key: clip for clip in clips}, numbers, settings)


def compare(runs: Sequence[Run]) -> tuple[Comparison, ...]:
    """Compare all metrics that all runs have over the clips they share, with the first run as reference."""
    comparisons = []
    for mode in get_args(Mode):
        shared = [key for key in shared_clips(runs) if key[0] == mode]
        for metric in PER_CLIP:
            table = np.array(
                [[run.clips[key].scores.get(metric.key, math.nan) for key in shared] for run in runs]
            ).reshape(len(runs), len(shared))
            known = table[:, np.isfinite(table).all(axis=0)]
            if known.shape[1]:
                scores = tuple(_run_score(metric, row, known[0], first=i == 0) for i, row in enumerate(known))
                comparisons.append(Comparison(mode, metric, known.shape[1], scores))
    return tuple(comparisons) + _fid(runs)


def shared_clips(runs: Sequence[Run]) -> list[Key]:
    """Return the keys of the clips that every run has, in order."""
    return sorted(set.intersection(*(set(run.clips) for run in runs)))


def warnings_of(runs: Sequence[Run]) -> list[str]:
    """List what keeps the runs from being of the same clips under the same conditions."""
    num_shared, warnings = len(shared_clips(runs)), []
    for letter, run in zip(string.ascii_uppercase, runs, strict=False):
        if num_left_out := len(run.clips) - num_shared:
            warnings.append(f"{count(num_left_out, 'clip')} of run {letter} left out: not in all runs.")
    for key, difference in (
        ("clips_sha256", "used different data sets"),
        ("frames", "used different numbers of frames per clip"),
        ("files_sha256", "used different scorers, face parsers or lists of pairs"),
    ):
        if len({json.dumps(run.settings.get(key)) for run in runs}) > 1:
            warnings.append(f"The runs {difference}.")
    return warnings


def differences_of(runs: Sequence[Run]) -> tuple[DifferenceView, ...]:
    """List the settings that are not the same in all runs, the model and its step among them.

    Titles, folders and machines are left out: they do not change a number.
    """
    flat = [dict(_flat(run.settings)) for run in runs]
    keys = sorted(set().union(*flat))
    rows = []
    for key in keys:
        values = tuple(each.get(key, UNKNOWN) for each in flat)
        if key.split(".")[0] not in SAME_NUMBERS and len(set(values)) > 1:
            rows.append(DifferenceView(IN_WORDS.get(key, key), values))
    return tuple(rows)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every setting with its dotted key, as short text."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            is_hash = name.endswith("sha256")
            yield prefix + name, text[:12] if is_hash else text


def write_comparison(runs: Sequence[Run], out: Location) -> None:
    """Write the page and its numbers into ``out``; videos stay in the runs' folders and are linked."""
    if len(runs) > len(string.ascii_uppercase):
        raise UserError(f"{len(runs)} runs do not fit on a page", "--compare", "Give at most 26.")
    if not shared_clips(runs):
        folders = ", ".join(shown(run.folder) for run in runs)
        fix = "Compare evaluations of one data set, of the same split, modes and pairs."
        raise UserError("the runs share no clip", folders, fix)
    comparisons = compare(runs)
    atomic_write(join(out, NUMBERS), json.dumps(compare_json(runs, comparisons), indent=2) + "\n")
    atomic_write(join(out, PAGE), render_comparison(runs, comparisons, out))


def compare_json(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Return the numbers for programs."""
    metrics: dict[str, dict[str, Any]] = {}
    for comparison in comparisons:
        scores = [
            {
                "value": score.value,
                "interval": _ends(score.interval),
                "difference": _finite(score.difference),
                "difference_interval": _ends(score.difference_interval),
                "verdict": score.verdict,
            }
            for score in comparison.scores
        ]
        of_mode = metrics.setdefault(comparison.mode, {})
        of_mode[comparison.metric.key] = {"clips": comparison.n_clips, "runs": scores}
    return {
        "runs": [{"folder": shown(run.folder), "title": run.title} for run in runs],
        "warnings": warnings_of(runs),
        "metrics": metrics,
    }


def render_comparison(runs: Sequence[Run], comparisons: Sequence[Comparison], folder: Location) -> str:
    """Return the page's HTML; ``folder`` is where it will lie, and links to videos start there."""
    letters = string.ascii_uppercase[: len(runs)]
    reconstructed = [key for key in shared_clips(runs) if key[0] == "reconstruction"]
    titles = short_titles(key[1:] for key in reconstructed)
    gained, lost = _most_different(runs)
    return render(
        "compare.html",
        runs=[_run_view(letter, run, folder) for letter, run in zip(letters, runs, strict=True)],
        warnings=warnings_of(runs),
        differences=differences_of(runs),
        sections=_sections(comparisons),
        rows=[_paired_clip(runs, key, folder, titles, sized=False) for key in reconstructed[:MOST_ROWS]],
        gained=[_paired_clip(runs, key, folder, titles, sized=True) for key in gained],
        lost=[_paired_clip(runs, key, folder, titles, sized=True) for key in lost],
        summary=_summary(letters, comparisons),
        definitions=definitions(dict.fromkeys(comparison.metric for comparison in comparisons)),
    )


# ---- numbers -----------------------------------------------------------------------------------------------


def _run_score(
    metric: Metric, values: NDArray[np.float64], reference: NDArray[np.float64], *, first: bool
) -> RunScore:
    interval = bootstrap_interval(values)
    if first:
        return RunScore(overall_score(values), interval, math.nan, UNKNOWN_INTERVAL, "reference")
    paired = metric.difference(values, reference)
    difference, difference_interval = overall_score(paired), bootstrap_interval(paired)
    verdict = "unclear"
    if len(paired) >= LEAST_CLIPS and difference_interval.known and not difference_interval.holds(0.0):
        verdict = "better" if metric.is_gain(difference) else "worse"
    return RunScore(overall_score(values), interval, difference, difference_interval, verdict)


def _fid(runs: Sequence[Run]) -> tuple[Comparison, ...]:
    """Compare FID, which is one number of all clips together: it has no pairs and no interval."""
    if any(FID.key not in run.numbers for run in runs):
        return ()
    values = [float(run.numbers[FID.key]) for run in runs]
    first = RunScore(values[0], UNKNOWN_INTERVAL, math.nan, UNKNOWN_INTERVAL, "reference")
    others = [RunScore(v, UNKNOWN_INTERVAL, v - values[0], UNKNOWN_INTERVAL, "unclear") for v in values[1:]]
    n_clips = min(sum(key[0] == "reconstruction" for key in run.clips) for run in runs)
    return (Comparison("reconstruction", FID, n_clips, (first, *others)),)


def _most_different(runs: Sequence[Run]) -> tuple[list[Key], list[Key]]:
    """Clips whose reconstruction gained most from the first run to the last, and those that lost most."""

    def gain(key: Key) -> float:
        first, last = (run.clips[key].scores.get(PSNR.key, math.nan) for run in (runs[0], runs[-1]))
        return last - first

    there = [key for key in shared_clips(runs) if all(run.clips[key].shown for run in runs)]
    ranked = sorted(
        (key for key in there if key[0] == "reconstruction" and math.isfinite(gain(key))), key=gain
    )
    differs = [key for key in ranked if float(_signed(gain(key))) != 0]
    gained = [key for key in reversed(differs) if gain(key) > 0]
    lost = [key for key in differs if gain(key) < 0]
    return gained[:SHOWN_VIDEOS], lost[:SHOWN_VIDEOS]


# ---- views -------------------------------------------------------------------------------------------------


def _run_view(letter: str, run: Run, folder: Location) -> RunView:
    return RunView(
        letter=letter,
        title=run.title,
        folder=shown(run.folder),
        page=_uri(folder, join(run.folder, PAGE)),
        n_clips=len(run.clips),
        n_quarantined=run.numbers["counts"]["quarantined"],
    )


def _summary(letters: str, comparisons: Sequence[Comparison]) -> list[str]:
    """Count the verdicts of each run but the first."""
    lines = []
    for number, letter in enumerate(letters[1:], start=1):
        shown = [_shown_verdict(each.metric, each.scores[number]) for each in comparisons]
        better, worse = shown.count("better"), shown.count("worse")
        lines.append(
            f"{letter} is better than A in {better} and worse in {worse} of {count(len(shown), 'number')}; "
            f"in the others no difference is certain."
        )
    return lines


def _sections(comparisons: Sequence[Comparison]) -> list[ComparisonSection]:
    modes = dict.fromkeys(comparison.mode for comparison in comparisons)
    return [
        ComparisonSection(
            HEADINGS[mode], tuple(_comparison_row(item) for item in comparisons if item.mode == mode)
        )
        for mode in modes
    ]


def _comparison_row(comparison: Comparison) -> ComparisonRow:
    metric = comparison.metric
    return ComparisonRow(
        label=f"{metric.label} {metric.unit}".rstrip(),
        direction=_direction(metric),
        n_clips=comparison.n_clips,
        scores=tuple(
            RunScoreView(
                value=format_number(metric, score.value),
                interval=format_interval(metric, score.interval),
                difference=_difference(metric, score.difference),
                difference_interval=format_interval(metric, score.difference_interval),
                verdict=_shown_verdict(metric, score),
            )
            for score in comparison.scores
        ),
    )


def _direction(metric: Metric) -> str:
    if metric.best is None:
        return metric.direction
    return f"{metric.direction}; the difference is of distances from {metric.best:g}"


def _difference(metric: Metric, difference: float) -> str:
    """Format a difference with its sign; 0 has none, and what is not known is empty."""
    if not math.isfinite(difference):
        return ""
    text = f"{difference * metric.display_scale:+.{metric.digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def _shown_verdict(metric: Metric, score: RunScore) -> str:
    """The verdict, but for differences that round to nothing: those are neither better nor worse."""
    text = _difference(metric, score.difference)
    return "unclear" if text and float(text) == 0 else score.verdict


def _video(run: Run, key: Key, folder: Location, *, sized: bool) -> VideoView:
    """View a video, if there is one; a link in a table needs no size, which takes opening a file."""
    if not run.clips[key].shown:
        return VideoView("", "", 0, 0)
    file = join(run.folder, *PurePosixPath(run.clips[key].folder).parts, VIDEO)
    uri = _uri(folder, file)
    return video_view(file, uri) if sized else VideoView(uri, "", 0, 0)


def _paired_clip(
    runs: Sequence[Run], key: Key, folder: Location, titles: Mapping[Pair, str], *, sized: bool
) -> PairedClip:
    scores = [run.clips[key].scores.get(PSNR.key, math.nan) for run in runs]
    return PairedClip(
        title=titles[key[1:]],
        ids=full_ids(key[1:]),
        runs=tuple(
            RunClip(
                psnr=Cell(format_number(PSNR, score), score),
                difference=Cell(_signed(score - scores[0]), score - scores[0]),
                video=_video(run, key, folder, sized=sized),
            )
            for run, score in zip(runs, scores, strict=True)
        ),
    )


def _signed(value: float) -> str:
    return f"{value:+.2f}" if math.isfinite(value) else UNKNOWN


def _ends(interval: Interval) -> list[float] | None:
    return [interval.low, interval.high] if interval.known else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _uri(folder: Location, file: Location) -> str:
    """A link from a page in ``folder``: relative on a disk and within a bucket, else the file's own URI."""
    if not is_uri(folder) and not is_uri(file):
        return quote(Path(os.path.relpath(Path(file).resolve(), Path(folder).resolve())).as_posix())
    if not is_uri(file):
        return Path(file).resolve().as_uri()
    there, here = urlsplit(shown(file)), urlsplit(shown(folder))
    if (there.scheme, there.netloc) != (here.scheme, here.netloc):
        return shown(file)
    return posixpath.relpath(there.path, here.path)  # quoted already, as in the URI
