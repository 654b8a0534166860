"""What a report tells, before it is a page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from safa.config.inference import Mode
from safa.inference.evaluation import ClipResult
from safa.metrics import (
    COPY_SOURCE,
    FID,
    FRAME_METRICS,
    Interval,
    Metric,
    bootstrap_interval,
    overall_score,
)

UNKNOWN_INTERVAL = Interval(math.nan, math.nan)


@dataclass(frozen=True)
class Failure:
    """A clip that could not be evaluated, and why; ``code`` is one of ``safa.data.schema.Code``."""

    mode: Mode
    name: str
    code: str
    detail: str


@dataclass(frozen=True)
class TrainingRun:
    """One stage of training: its rows of ``metrics.jsonl``, and its settings in plain words."""

    name: str
    settings: tuple[str, ...]
    records: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class ReportContent:
    """Everything on the page.

    Attributes:
        results: of all modes.
        failures: of all modes; ``in == len(results) + len(failures)``.
        settings: of the model and the evaluation, in plain words.
        runs: training runs behind the model, in order.
        seconds: wall time of each stage, in order.
        versions: of what the numbers depend on.
        config: the evaluation's settings as YAML.
        fid: of all reconstructed clips together, and of copying their sources; NaN if it was not taken.
        skipped: keys of the metrics left out, each with its reason.
        hashes: of the model and the data set.
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

    def of_mode(self, mode: Mode) -> tuple[ClipResult, ...]:
        """The results of one mode, by name."""
        return tuple(sorted((r for r in self.results if r.job.mode == mode), key=lambda r: r.job.folder_name))


@dataclass(frozen=True)
class Headline:
    """A metric over all clips, beside copying the source; intervals are of 95 % over clips."""

    metric: Metric
    value: float
    copy_source: float
    interval: Interval = UNKNOWN_INTERVAL
    copy_interval: Interval = UNKNOWN_INTERVAL

    @property
    def gain(self) -> float:
        """How much better than copying the source; positive is better, whatever the metric."""
        difference = self.value - self.copy_source
        return difference if self.metric.higher_is_better else -difference


def headlines(
    results: Iterable[ClipResult],
    fid: tuple[float, float] = (math.nan, math.nan),
    mode: Mode = "reconstruction",
) -> tuple[Headline, ...]:
    """Every metric's mean over the clips of a mode; one without a single number is left out."""
    scores = [result.scores for result in results if result.job.mode == mode]

    def clips(key: str) -> NDArray[np.float64]:
        return np.array([score.get(key, math.nan) for score in scores], dtype=np.float64)

    lines = [
        Headline(metric, overall_score(made), overall_score(copied), *map(bootstrap_interval, (made, copied)))
        for metric in FRAME_METRICS
        for made, copied in [(clips(metric.key), clips(metric.key + COPY_SOURCE))]
    ]
    lines.append(Headline(FID, *fid))
    return tuple(line for line in lines if math.isfinite(line.value))


def metrics_json(content: ReportContent) -> dict[str, Any]:
    """The numbers of the report for programs: a key per metric and per baseline, counts and wall times.

    Reconstructions stand at the top, the scores of other modes under the mode's name; ``intervals`` has the
    ends of each number's interval, ``skipped`` the reasons of what is not there.
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
