"""The content of a report before it becomes a page, and ``clips.parquet``, its table of clips.

Two evaluations are compared by their ``clips.parquet``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from safa.batching import batched
from safa.config.inference import Mode
from safa.errors import Failure, UserError
from safa.evaluation.frame_scores import CLIP_SCORES
from safa.evaluation.results import ClipResult
from safa.files import Location, atomic_file, local_file, shown
from safa.metrics import (
    COPY_SOURCE,
    FID,
    PER_CLIP,
    Interval,
    Metric,
    bootstrap_interval,
    overall_score,
)
from safa.tables import read_table

LEAST_CLIPS = 5  # of which a verdict is made: the bootstrap of fewer is too sure of itself
UNKNOWN_INTERVAL = Interval(math.nan, math.nan)
ROWS_AT_ONCE = 4096  # clips
CLIPS_SCHEMA = pa.schema(
    [
        ("mode", pa.string()),
        ("source_id", pa.string()),  # clip
        ("driving_id", pa.string()),  # clip
        ("source_person", pa.string()),
        ("driving_person", pa.string()),
        ("folder", pa.string()),  # beside the table; with video and strip where ``shown``
        ("shown", pa.bool_()),
        ("n_frames", pa.int32()),
        ("seconds", pa.float64()),  # of work
        *((score, pa.float64()) for score in CLIP_SCORES),  # mean over frames; NaN: none has one
    ]
)


@dataclass(frozen=True)
class TrainingRun:
    """One stage of training: its settings in words, and its rows of ``metrics.jsonl``."""

    name: str
    settings: tuple[str, ...]
    records: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ReportContent:
    """Everything that the page shows.

    Attributes:
        title: heading of the page.
        results: of all modes.
        failures: of all modes; there are ``len(results) + len(failures)`` jobs.
        settings: settings of the model and the evaluation in words.
        runs: the training runs behind the model, in order.
        seconds: wall time of each stage, in order.
        versions: versions of the software that the numbers depend on.
        config: the evaluation's settings as YAML.
        fid: FID of all reconstructed clips together, and of copying their sources; NaN if not measured.
        skipped: keys of the metrics that were left out, each with the reason.
        hashes: hashes of the model and the data set.
        step: of training at which the model was saved; None if that is not known.
    """

    title: str
    results: tuple[ClipResult, ...]
    failures: tuple[Failure, ...]
    settings: tuple[str, ...]
    runs: tuple[TrainingRun, ...]
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    config: str
    fid: tuple[float, float] = (math.nan, math.nan)
    skipped: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    step: int | None = None

    def of_mode(self, mode: Mode) -> tuple[ClipResult, ...]:
        """Return the results of one mode in the order of their names."""
        return tuple(sorted((r for r in self.results if r.job.mode == mode), key=lambda r: r.job.folder_name))


@dataclass(frozen=True)
class Headline:
    """A metric over all clips, beside copying the source; intervals are 95 % intervals over clips.

    Attributes:
        n_clips: how many clips have a number; 0 of FID, which is one number of all.
        gain: how much better the model is than copying the source, clip by clip; positive is better. NaN
            where that is no contest: a face that stands still has no correlation, and a gain of 0.
    """

    metric: Metric
    value: float
    copy_source: float
    interval: Interval = UNKNOWN_INTERVAL
    copy_interval: Interval = UNKNOWN_INTERVAL
    gain: float = math.nan
    gain_interval: Interval = UNKNOWN_INTERVAL
    n_clips: int = 0


def _headline(metric: Metric, model: NDArray[np.float64], copied: NDArray[np.float64]) -> Headline:
    paired = metric.difference(model, copied)
    gains = paired if metric.is_gain(1.0) else -paired
    if metric.best is not None:
        gains = np.full(len(model), np.nan)
    score, copied_score, gain = map(overall_score, (model, copied, gains))
    interval, copied_interval, gain_interval = map(bootstrap_interval, (model, copied, gains))
    n_clips = int(np.isfinite(model).sum())
    return Headline(metric, score, copied_score, interval, copied_interval, gain, gain_interval, n_clips)


def headlines(
    results: Iterable[ClipResult],
    fid: tuple[float, float] = (math.nan, math.nan),
    mode: Mode = "reconstruction",
) -> tuple[Headline, ...]:
    """Average every metric over the clips of a mode; metrics without a single number are left out."""
    scores = [result.scores for result in results if result.job.mode == mode]

    def clips(key: str) -> NDArray[np.float64]:
        return np.array([score.get(key, math.nan) for score in scores], dtype=np.float64)

    lines = [_headline(metric, clips(metric.key), clips(metric.key + COPY_SOURCE)) for metric in PER_CLIP]
    lines.append(Headline(FID, *fid, gain=fid[1] - fid[0]))
    return tuple(line for line in lines if math.isfinite(line.value))


def metrics_json(content: ReportContent) -> dict[str, Any]:
    """Return the numbers of the report for programs: a key per metric and baseline, counts and wall times.

    Scores of reconstructions stand at the top, those of other modes under the mode's name; ``intervals`` has
    the ends of each number's interval, ``skipped`` the reason why a metric is missing.
    """
    ok, quarantined = len(content.results), len(content.failures)
    of_modes = {
        mode: _numbers(headlines(content.results, mode=mode))
        for mode in get_args(Mode)
        if mode != "reconstruction"
    }
    return {
        **_numbers(headlines(content.results, content.fid)),
        **{mode: numbers for mode, numbers in of_modes.items() if numbers},
        "model_step": content.step,
        "skipped": dict(content.skipped),
        "counts": {"in": ok + quarantined, "ok": ok, "quarantined": quarantined},
        "frames": sum(result.n_frames for result in content.results),
        "seconds": {stage: round(seconds, 1) for stage, seconds in content.seconds.items()},
    }


def _numbers(lines: Sequence[Headline]) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    intervals: dict[str, list[float]] = {}
    for line in lines:
        sides = (("", line.value, line.interval), (COPY_SOURCE, line.copy_source, line.copy_interval))
        for side, value, interval in sides:
            if math.isfinite(value):
                numbers[line.metric.key + side] = value
            if interval.known:
                intervals[line.metric.key + side] = [interval.low, interval.high]
    return numbers | ({"intervals": intervals} if intervals else {})


def tracked_numbers(numbers: Mapping[str, Any]) -> dict[str, float]:
    """Return what ``metrics_json`` has under one name each, for those who follow runs.

    ``reconstruction/psnr``, ``animation/csim``, ``..._copy_source``, the ends of intervals as ``..._low`` and
    ``..._high``; ``clips/ok``, ``clips/quarantined``, ``seconds/evaluate`` and the like.
    """
    found = {f"clips/{state}": float(count) for state, count in numbers["counts"].items()}
    found |= {f"seconds/{stage}": float(spent) for stage, spent in numbers["seconds"].items()}
    of_modes = {mode: numbers[mode] for mode in get_args(Mode) if mode in numbers}
    for mode, values in {"reconstruction": numbers, **of_modes}.items():
        found |= {f"{mode}/{key}": value for key, value in values.items() if isinstance(value, float)}
        for key, (low, high) in values.get("intervals", {}).items():
            found |= {f"{mode}/{key}_low": low, f"{mode}/{key}_high": high}
    return found


# ---- clips.parquet -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClipRecord:
    """A row of ``clips.parquet``: what was done with a clip, where its files are, and its scores."""

    mode: Mode
    source_id: str
    driving_id: str
    folder: str
    scores: dict[str, float]
    shown: bool = True

    @property
    def key(self) -> tuple[str, str, str]:
        """Identifies the clip in every evaluation of the same clips."""
        return self.mode, self.source_id, self.driving_id


def write_clips(path: Location, results: Sequence[ClipResult], folder: str) -> None:
    """Write one row per result in their order; ``folder`` holds ``<mode>/<clip>/``."""
    with (
        atomic_file(path) as temporary,
        pq.ParquetWriter(temporary, CLIPS_SCHEMA) as writer,
    ):
        for part in batched(results, ROWS_AT_ONCE):
            rows = [_clip_row(result, folder) for result in part]
            writer.write_table(pa.Table.from_pylist(rows, schema=CLIPS_SCHEMA))


def _clip_row(result: ClipResult, folder: str) -> dict[str, Any]:
    return {
        "mode": result.job.mode,
        "source_id": result.job.source,
        "driving_id": result.job.driving,
        "source_person": result.source_person,
        "driving_person": result.driving_person,
        "folder": f"{folder}/{result.job.mode}/{result.job.folder_name}",
        "shown": result.shown,
        "n_frames": result.n_frames,
        "seconds": result.seconds,
        **{score: result.scores.get(score, math.nan) for score in CLIP_SCORES},
    }


def _clip_record(row: Mapping[str, Any]) -> ClipRecord:
    """A clip of a row.

    Raises:
        KeyError, TypeError, ValueError: the row is none.
    """
    mode, source, driving, folder = (row[name] for name in ("mode", "source_id", "driving_id", "folder"))
    if not all(isinstance(text, str) for text in (source, driving, folder)) or mode not in get_args(Mode):
        raise ValueError("a name that is none")
    scores = {score: float(row[score]) for score in CLIP_SCORES if score in row}
    # Before there was a choice, all were shown.
    return ClipRecord(mode, source, driving, folder, scores, bool(row.get("shown", True)))


def read_clips(path: Location) -> tuple[ClipRecord, ...]:
    """Read what ``write_clips`` wrote.

    Raises:
        UserError: there is no such file, or it is not a table of clips.
    """
    try:
        with local_file(path) as local:
            rows = read_table(local).to_pylist()
        return tuple(map(_clip_record, rows))
    except (UserError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"no table of evaluated clips ({error.what if isinstance(error, UserError) else error})",
            shown(path),
            "Give folders that pipelines.evaluate wrote.",
        ) from None
