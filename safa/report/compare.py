"""Evaluations side by side: the same clips, paired differences, and how sure they are."""

from __future__ import annotations

import json
import math
import os
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from safa.config.inference import Mode
from safa.errors import UserError
from safa.evaluation.clip_evaluator import VIDEO
from safa.files import atomic_write
from safa.metrics import FID, FRAME_METRICS, PSNR, Interval, Metric, bootstrap_interval, overall_score
from safa.report.content import UNKNOWN_INTERVAL, ClipRow, read_clips
from safa.report.rendering import UNKNOWN, bare, render, shown_interval

PAGE, NUMBERS = "index.html", "compare.json"
SHOWN_VIDEOS = 3  # of the clips that gained most, and of those that lost most
MOST_ROWS = 2000  # in the page; the numbers of all are in the runs' tables
Key = tuple[str, str, str]  # mode, source, driving


@dataclass(frozen=True)
class Run:
    """A finished evaluation.

    Attributes:
        title: of its report.
        clips: by ``ClipRow.key``.
        numbers: its ``metrics.json``.
        settings: its settings, with the hashes of what they were applied to.
    """

    folder: Path
    title: str
    clips: Mapping[Key, ClipRow]
    numbers: Mapping[str, Any]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Side:
    """One run's number of a metric, and how much it differs from the first run's, clip by clip.

    Attributes:
        difference: mean over clips of (this run - first run); NaN for the first.
        verdict: better, worse or unclear, the last where the interval of the difference holds 0.
    """

    value: float
    interval: Interval
    difference: float
    spread: Interval
    verdict: str


@dataclass(frozen=True)
class Line:
    """A metric over the clips that all runs have a number for."""

    mode: Mode
    metric: Metric
    n_clips: int
    sides: tuple[Side, ...]


def read_run(folder: Path) -> Run:
    """A folder that ``pipelines.evaluate`` finished.

    Raises:
        UserError: it is none.
    """
    clips = read_clips(folder / "clips.parquet")
    try:
        numbers = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        settings = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["settings"]
        title = str(settings["title"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"no finished evaluation ({error})", str(folder), "Run pipelines.evaluate first."
        ) from None
    return Run(folder, title, {clip.key: clip for clip in clips}, numbers, settings)


def compare(runs: Sequence[Run]) -> tuple[Line, ...]:
    """All metrics that all runs have, over the clips they share. The first run is the reference."""
    lines = []
    for mode in get_args(Mode):
        shared = [key for key in shared_clips(runs) if key[0] == mode]
        for metric in FRAME_METRICS:
            scores = np.array(
                [[run.clips[key].scores.get(metric.key, math.nan) for key in shared] for run in runs]
            ).reshape(len(runs), len(shared))
            known = scores[:, np.isfinite(scores).all(axis=0)]
            if known.shape[1]:
                sides = tuple(_side(metric, row, known[0], first=i == 0) for i, row in enumerate(known))
                lines.append(Line(mode, metric, known.shape[1], sides))
    return tuple(lines) + _fid(runs)


def shared_clips(runs: Sequence[Run]) -> list[Key]:
    """Keys of the clips that every run has, in order."""
    return sorted(set.intersection(*(set(run.clips) for run in runs)))


def warnings_of(runs: Sequence[Run]) -> list[str]:
    """What makes a comparison less than one of the same clips under the same rules."""
    shared, found = len(shared_clips(runs)), []
    for letter, run in zip(string.ascii_uppercase, runs, strict=False):
        if (left := len(run.clips) - shared) == 1:
            found.append(f"{letter} has 1 clip that is left out: not all runs have it.")
        elif left:
            found.append(f"{letter} has {left} clips that are left out: not all runs have them.")
    for key, words in (
        ("clips_sha256", "were made from different data sets"),
        ("frames", "take different numbers of frames of a clip"),
        ("files_sha256", "differ in the networks that score or parse, or in their list of pairs"),
    ):
        if len({json.dumps(run.settings.get(key)) for run in runs}) > 1:
            found.append(f"The runs {words}.")
    if not shared:
        found.append("The runs share no clip: there is nothing to compare.")
    return found


def write_comparison(runs: Sequence[Run], out: Path) -> None:
    """Write the page and its numbers into ``out``; videos stay in the runs' folders and are linked."""
    if len(runs) > len(string.ascii_uppercase):
        raise UserError(f"{len(runs)} runs do not fit on a page", "--compare", "Name at most 26.")
    lines = compare(runs)
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / NUMBERS, json.dumps(compare_json(runs, lines), indent=2) + "\n")
    atomic_write(out / PAGE, render_comparison(runs, lines, out))


def compare_json(runs: Sequence[Run], lines: Sequence[Line]) -> dict[str, Any]:
    """The numbers for programs."""
    metrics: dict[str, dict[str, Any]] = {}
    for line in lines:
        sides = [
            {
                "value": side.value,
                "interval": _ends(side.interval),
                "difference": _finite(side.difference),
                "difference_interval": _ends(side.spread),
                "verdict": side.verdict,
            }
            for side in line.sides
        ]
        metrics.setdefault(line.mode, {})[line.metric.key] = {"clips": line.n_clips, "runs": sides}
    return {
        "runs": [{"folder": str(run.folder), "title": run.title} for run in runs],
        "warnings": warnings_of(runs),
        "metrics": metrics,
    }


def render_comparison(runs: Sequence[Run], lines: Sequence[Line], folder: Path) -> str:
    """The page's text; ``folder`` is where it will lie, videos are linked from there."""
    letters = string.ascii_uppercase[: len(runs)]
    rebuilt = [key for key in shared_clips(runs) if key[0] == "reconstruction"]
    modes = dict.fromkeys(line.mode for line in lines)
    ranked = _ranked(runs)
    ends = [*ranked[:SHOWN_VIDEOS], *ranked[max(SHOWN_VIDEOS, len(ranked) - SHOWN_VIDEOS) :]]
    return render(
        "compare.html",
        letters=letters,
        runs=[
            (letter, run, _from(folder, run.folder / "index.html"))
            for letter, run in zip(letters, runs, strict=True)
        ],
        warnings=warnings_of(runs),
        groups=[(mode, [_shown(line) for line in lines if line.mode == mode]) for mode in modes],
        rows=[_row(runs, key, folder) for key in rebuilt[:MOST_ROWS]],
        videos=[_row(runs, key, folder) for key in ends],
    )


# ---- numbers -----------------------------------------------------------------------------------------------


def _side(
    metric: Metric, values: NDArray[np.float64], reference: NDArray[np.float64], *, first: bool
) -> Side:
    interval = bootstrap_interval(values)
    if first:
        return Side(overall_score(values), interval, math.nan, UNKNOWN_INTERVAL, "reference")
    paired = values - reference
    difference, spread = overall_score(paired), bootstrap_interval(paired)
    return Side(overall_score(values), interval, difference, spread, _verdict(metric, difference, spread))


def _verdict(metric: Metric, difference: float, spread: Interval) -> str:
    if not spread.known or spread.low <= 0 <= spread.high:
        return "unclear"
    return "better" if (difference > 0) == metric.higher_is_better else "worse"


def _fid(runs: Sequence[Run]) -> tuple[Line, ...]:
    """FID is a number of all clips together: it has a difference, but no pairs and no interval."""
    if any(FID.key not in run.numbers for run in runs):
        return ()
    values = [float(run.numbers[FID.key]) for run in runs]
    first = Side(values[0], UNKNOWN_INTERVAL, math.nan, UNKNOWN_INTERVAL, "reference")
    others = [Side(v, UNKNOWN_INTERVAL, v - values[0], UNKNOWN_INTERVAL, "unclear") for v in values[1:]]
    n_clips = min(sum(key[0] == "reconstruction" for key in run.clips) for run in runs)
    return (Line("reconstruction", FID, n_clips, (first, *others)),)


def _ranked(runs: Sequence[Run]) -> list[Key]:
    """Reconstructed clips by what the last run gained on the first, the most first."""

    def gain(key: Key) -> float:
        first, last = (run.clips[key].scores.get(PSNR.key, math.nan) for run in (runs[0], runs[-1]))
        return last - first

    keys = [key for key in shared_clips(runs) if key[0] == "reconstruction" and math.isfinite(gain(key))]
    return sorted(keys, key=gain, reverse=True)


# ---- words -------------------------------------------------------------------------------------------------


def _shown(line: Line) -> dict[str, Any]:
    metric = line.metric
    return {
        "label": f"{metric.label}{f' {metric.unit}' if metric.unit else ''}",
        "arrow": "higher is better" if metric.higher_is_better else "lower is better",
        "n_clips": line.n_clips,
        "sides": [
            {
                "value": bare(metric, side.value),
                "interval": shown_interval(metric, side.interval),
                "difference": f"{side.difference * metric.shown_times:+.{metric.digits}f}"
                if math.isfinite(side.difference)
                else "",
                "spread": shown_interval(metric, side.spread),
                "verdict": side.verdict,
            }
            for side in line.sides
        ],
    }


def _row(runs: Sequence[Run], key: Key, folder: Path) -> dict[str, Any]:
    scores = [run.clips[key].scores.get(PSNR.key, math.nan) for run in runs]
    return {
        "title": runs[0].clips[key].title,
        "cells": [(bare(PSNR, score), score) for score in scores],
        "differences": [(_signed(score - scores[0]), score - scores[0]) for score in scores[1:]],
        "videos": [_from(folder, run.folder / run.clips[key].folder / VIDEO) for run in runs],
    }


def _signed(value: float) -> str:
    return f"{value:+.2f}" if math.isfinite(value) else UNKNOWN


def _ends(interval: Interval) -> list[float] | None:
    return [interval.low, interval.high] if interval.known else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _from(folder: Path, file: Path) -> str:
    return quote(Path(os.path.relpath(file.resolve(), folder.resolve())).as_posix())
