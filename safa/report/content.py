"""What a report tells, before it is a page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from safa.config.inference import Mode
from safa.inference.evaluation import ClipResult
from safa.metrics import COPY_SOURCE, METRICS, Metric, overall_score


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
    """

    title: str
    results: tuple[ClipResult, ...]
    failures: tuple[Failure, ...]
    settings: tuple[str, ...]
    runs: tuple[TrainingRun, ...]
    seconds: Mapping[str, float]
    versions: Mapping[str, str]
    config: str

    def of_mode(self, mode: Mode) -> tuple[ClipResult, ...]:
        """The results of one mode, by name."""
        return tuple(sorted((r for r in self.results if r.job.mode == mode), key=lambda r: r.job.folder_name))


@dataclass(frozen=True)
class Headline:
    """A metric over all clips, beside copying the source."""

    metric: Metric
    value: float
    copy_source: float

    @property
    def gain(self) -> float:
        """How much better than copying the source; positive is better, whatever the metric."""
        difference = self.value - self.copy_source
        return difference if self.metric.higher_is_better else -difference


def headlines(results: Iterable[ClipResult]) -> tuple[Headline, ...]:
    """Every metric's mean over the reconstructed clips; one without a single number is left out."""
    scores = [result.scores for result in results if result.job.mode == "reconstruction"]

    def mean(key: str) -> float:
        return overall_score(np.array([score[key] for score in scores], dtype=np.float64))

    lines = (Headline(metric, mean(metric.key), mean(metric.key + COPY_SOURCE)) for metric in METRICS)
    return tuple(line for line in lines if math.isfinite(line.value))


def metrics_json(content: ReportContent) -> dict[str, Any]:
    """The numbers of the report for programs: a key per metric and per baseline, counts and wall times."""
    numbers: dict[str, Any] = {}
    for line in headlines(content.results):
        numbers[line.metric.key] = line.value
        if math.isfinite(line.copy_source):
            numbers[line.metric.key + COPY_SOURCE] = line.copy_source
    ok, quarantined = len(content.results), len(content.failures)
    return {
        **numbers,
        "counts": {"in": ok + quarantined, "ok": ok, "quarantined": quarantined},
        "frames": sum(result.n_frames for result in content.results),
        "seconds": {stage: round(seconds, 1) for stage, seconds in content.seconds.items()},
    }
