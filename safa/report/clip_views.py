"""Clips as the page shows them: rows of its tables, and pieces with video and strip."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from safa.evaluation.clip_evaluator import STRIP, VIDEO, ClipResult
from safa.metrics import COPY_SOURCE, PSNR, Metric
from safa.report.rendering import bare, shown

CLIPS = "clips"  # folder beside the page: clips/<mode>/<folder name>/
STRIP_WIDTH = 1600  # px of a strip inside the page; a click opens the whole one
STRIP_QUALITY = 85
STRIPS_BYTES = 12 * 2**20  # of all strips inside the page; later ones stay files beside it


@dataclass(frozen=True)
class Row:
    """A clip in the table.

    Attributes:
        cells: shown text and sort key of every score.
        bar: where copy-the-source's PSNR and the model's lie, 0 to 100.
    """

    name: str
    video: str
    people: str
    n_frames: int
    cells: tuple[tuple[str, float], ...]
    bar: tuple[float, float] | None


@dataclass(frozen=True)
class Showpiece:
    """A clip with its video and strip; addresses are relative to the page.

    Attributes:
        scores: label, model, copy-the-source.
        strip: a data address, small enough for the page, or that of the file.
    """

    title: str
    people: str
    scores: tuple[tuple[str, str, str], ...]
    video: str
    strip: str
    whole_strip: str


class Showcase:
    """Makes showpieces of clips whose files lie in ``folder``, within a budget of bytes for their strips."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._left = folder, STRIPS_BYTES

    def piece(self, result: ClipResult, metrics: Sequence[Metric]) -> Showpiece:
        """One clip, with its scores of these metrics."""
        scores = result.scores
        lines = [
            tuple(shown(metric, scores.get(metric.key + side, math.nan)) for side in ("", COPY_SOURCE))
            for metric in metrics
        ]
        return Showpiece(
            title=result.job.title,
            people=_who(result),
            scores=tuple((m.label, made, copied) for m, (made, copied) in zip(metrics, lines, strict=True)),
            video=address(result, VIDEO),
            strip=self._strip(result),
            whole_strip=address(result, STRIP),
        )

    def _strip(self, result: ClipResult) -> str:
        data = _data_address(self._folder / _place(result, STRIP))
        if len(data) > self._left:
            return address(result, STRIP)
        self._left -= len(data)
        return data


def psnr_gain(result: ClipResult) -> float:
    """dB that a reconstruction gains on copying the source; the worst possible if it has no number."""
    gain = result.scores[PSNR.key] - result.scores[PSNR.key + COPY_SOURCE]
    return gain if math.isfinite(gain) else -math.inf


def rows_of(results: Sequence[ClipResult], metrics: Sequence[Metric]) -> list[Row]:
    """Rows of reconstructions, with a bar on a common scale."""
    ends = [result.scores[PSNR.key + side] for result in results for side in ("", COPY_SOURCE)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    span = (low - 0.05 * (high - low), (high - low) * 1.1 or 1.0)
    return [row_of(result, metrics, span) for result in results]


def row_of(result: ClipResult, metrics: Sequence[Metric], span: tuple[float, float] | None = None) -> Row:
    """One clip's row; ``span`` is the PSNR at the bar's left end and the bar's width in dB."""
    keys = [(metric, metric.key + side) for metric in metrics for side in ("", COPY_SOURCE)]
    values = [(metric, result.scores.get(key, math.nan)) for metric, key in keys]
    bar = None
    if span is not None:
        low, width = span
        model, copied = (100 * (result.scores[PSNR.key + side] - low) / width for side in ("", COPY_SOURCE))
        bar = (copied, model)
    cells = tuple((bare(metric, value), value) for metric, value in values)
    return Row(result.job.title, address(result, VIDEO), _who(result), result.n_frames, cells, bar)


def address(result: ClipResult, file: str) -> str:
    """Of a clip's file, relative to the page."""
    return quote(_place(result, file))


def _who(result: ClipResult) -> str:
    if result.source_person == result.driving_person:
        return result.driving_person
    return f"{result.source_person} driven by {result.driving_person}"


def _place(result: ClipResult, file: str) -> str:
    return f"{CLIPS}/{result.job.mode}/{result.job.folder_name}/{file}"


def _data_address(path: Path) -> str:
    """A picture as part of the page."""
    with Image.open(path) as picture:
        picture.thumbnail((STRIP_WIDTH, picture.height))
        buffer = io.BytesIO()
        picture.save(buffer, "jpeg", quality=STRIP_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
