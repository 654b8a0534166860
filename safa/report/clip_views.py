"""Views of clips: rows of the report's tables, and clips with video and strip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from safa.evaluation.clip_evaluator import STRIP, VIDEO, ClipResult
from safa.metrics import COPY_SOURCE, PSNR, Metric
from safa.report.rendering import format_number, format_score, jpeg_data_uri
from safa.report.views import Cell, ClipRow, ClipView, GainBar, ScoreView

CLIPS = "clips"  # folder beside the page: clips/<mode>/<folder name>/
STRIP_WIDTH = 1600  # px of a strip inside the page; a click opens the file, which may be larger
STRIPS_BYTES = 12 * 2**20  # of all strips inside the page; further ones stay files beside it


class ClipViewer:
    """Makes views of clips whose files lie in ``folder``, within a budget of bytes for their strips."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._bytes_left = folder, STRIPS_BYTES

    def view(self, result: ClipResult, metrics: Sequence[Metric]) -> ClipView:
        """View one clip with its scores of these metrics."""
        return ClipView(
            title=result.job.title,
            people=_people_of(result),
            scores=tuple(_score(result, metric) for metric in metrics),
            video=clip_uri(result, VIDEO),
            strip=self._strip(result),
            full_strip=clip_uri(result, STRIP),
        )

    def _strip(self, result: ClipResult) -> str:
        data = _data_uri(self._folder / _location(result, STRIP))
        if len(data) > self._bytes_left:
            return clip_uri(result, STRIP)
        self._bytes_left -= len(data)
        return data


def psnr_gain(result: ClipResult) -> float:
    """Return the dB that a reconstruction gains on copying the source; -inf if there is no number."""
    gain = result.scores[PSNR.key] - result.scores[PSNR.key + COPY_SOURCE]
    return gain if math.isfinite(gain) else -math.inf


def reconstruction_rows(results: Sequence[ClipResult], metrics: Sequence[Metric]) -> tuple[ClipRow, ...]:
    """View reconstructions as rows with a bar, all on one scale."""
    ends = [result.scores[PSNR.key + side] for result in results for side in ("", COPY_SOURCE)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    left, width = low - 0.05 * (high - low), (high - low) * 1.1 or 1.0  # dB
    return tuple(clip_row(result, metrics, _bar(result, left, width)) for result in results)


def clip_row(result: ClipResult, metrics: Sequence[Metric], bar: GainBar | None = None) -> ClipRow:
    """View one clip as a row with its scores of these metrics."""
    keys = [(metric, metric.key + side) for metric in metrics for side in ("", COPY_SOURCE)]
    values = [(metric, result.scores.get(key, math.nan)) for metric, key in keys]
    cells = tuple(Cell(format_number(metric, value), value) for metric, value in values)
    video = clip_uri(result, VIDEO)
    return ClipRow(result.job.title, video, _people_of(result), result.n_frames, cells, bar)


def clip_uri(result: ClipResult, file: str) -> str:
    """Return the URI of a clip's file, relative to the page."""
    return quote(_location(result, file))


def _score(result: ClipResult, metric: Metric) -> ScoreView:
    model, copied = (result.scores.get(metric.key + side, math.nan) for side in ("", COPY_SOURCE))
    return ScoreView(metric.label, format_score(metric, model), format_score(metric, copied))


def _bar(result: ClipResult, left: float, width: float) -> GainBar:
    copied, model = (100 * (result.scores[PSNR.key + side] - left) / width for side in (COPY_SOURCE, ""))
    return GainBar(copied, model)


def _people_of(result: ClipResult) -> str:
    if result.source_person == result.driving_person:
        return result.driving_person
    return f"{result.source_person} driven by {result.driving_person}"


def _location(result: ClipResult, file: str) -> str:
    return f"{CLIPS}/{result.job.mode}/{result.job.folder_name}/{file}"


def _data_uri(path: Path) -> str:
    with Image.open(path) as image:
        return jpeg_data_uri(image, (STRIP_WIDTH, image.height))
