"""Views of clips: rows of the report's tables, and clips with video and strip."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from PIL import Image

from safa.data.video import DecodeError, probe
from safa.evaluation.clip_files import CLIPS, POSTER, STRIP, VIDEO
from safa.evaluation.results import ClipResult
from safa.files import Location, is_file, join, local_file, read_bytes, split
from safa.metrics import COPY_SOURCE, PSNR, Metric
from safa.report.rendering import format_number, format_score, jpeg_data_uri
from safa.report.titles import full_ids, short_titles
from safa.report.views import Cell, ClipRow, ClipView, GainBar, ScoreView, StripView, VideoView

STRIP_WIDTH = 1600  # px of a strip inside the page; a click opens the file, which may be larger
STRIPS_BYTES = 12 * 2**20  # of all strips inside the page; further ones stay files beside it


class ClipViewer:
    """Makes views of clips whose files lie in ``folder``, within a budget of bytes for their strips.

    Args:
        results: all results of the page, of which titles must differ within a mode.
    """

    def __init__(self, folder: Location, results: Iterable[ClipResult]) -> None:
        self._folder, self._bytes_left = folder, STRIPS_BYTES
        by_mode: dict[str, list[tuple[str, str]]] = {}
        for result in results:
            by_mode.setdefault(result.job.mode, []).append(_pair(result))
        self._titles = {mode: short_titles(pairs) for mode, pairs in by_mode.items()}

    def title(self, result: ClipResult) -> str:
        """Return a short title."""
        return self._titles[result.job.mode][_pair(result)]

    def view(self, result: ClipResult, metrics: Sequence[Metric]) -> ClipView:
        """View one clip with its scores of these metrics."""
        return ClipView(
            title=self.title(result),
            ids=full_ids(_pair(result)),
            scores=tuple(_score(result, metric) for metric in metrics),
            video=self.video(result),
            strip=self._strip(result),
        )

    def video(self, result: ClipResult) -> VideoView:
        """View the video alone."""
        return video_view(_file(self._folder, result, VIDEO), clip_uri(result, VIDEO))

    def row(self, result: ClipResult, metrics: Sequence[Metric], bar: GainBar | None = None) -> ClipRow:
        """View one clip as a row with its scores of these metrics."""
        keys = [(metric, metric.key + side) for metric in metrics for side in ("", COPY_SOURCE)]
        values = [(metric, result.scores.get(key, math.nan)) for metric, key in keys]
        cells = tuple(Cell(format_number(metric, value), value) for metric, value in values)
        uri, ids = clip_uri(result, VIDEO) if result.shown else "", full_ids(_pair(result))
        return ClipRow(self.title(result), ids, uri, result.n_frames, cells, bar)

    def reconstruction_rows(
        self, results: Sequence[ClipResult], metrics: Sequence[Metric]
    ) -> tuple[ClipRow, ...]:
        """View reconstructions as rows with a bar, all on one scale."""
        ends = [result.scores[PSNR.key + side] for result in results for side in ("", COPY_SOURCE)]
        low, high = min(ends, default=0.0), max(ends, default=1.0)
        left, width = low - 0.05 * (high - low), (high - low) * 1.1 or 1.0  # dB
        return tuple(self.row(result, metrics, _bar(result, left, width)) for result in results)

    def _strip(self, result: ClipResult) -> StripView:
        uri = clip_uri(result, STRIP)
        with _open(_file(self._folder, result, STRIP)) as image:
            size = image.size
            image.thumbnail((STRIP_WIDTH, image.height))
            data = jpeg_data_uri(image)
        if len(data) > self._bytes_left:
            return StripView(uri, uri, *size)
        self._bytes_left -= len(data)
        return StripView(data, uri, *size)


def video_view(file: Location, uri: str) -> VideoView:
    """View a video whose poster, if there is one, lies beside it (folders of older runs have none)."""
    poster = join(split(file)[0], POSTER)
    if is_file(poster):
        with _open(poster) as image:
            return VideoView(uri, f"{uri.rpartition('/')[0]}/{POSTER}", *image.size)
    try:
        with local_file(file) as path:
            info = probe(path)
    except DecodeError:
        return VideoView(uri, "", 0, 0)
    return VideoView(uri, "", info.width, info.height)


def psnr_gain(result: ClipResult) -> float:
    """Return the dB that a reconstruction gains on copying the source; -inf if there is no number."""
    gain = result.scores[PSNR.key] - result.scores[PSNR.key + COPY_SOURCE]
    return gain if math.isfinite(gain) else -math.inf


def clip_uri(result: ClipResult, file: str) -> str:
    """Return the URI of a clip's file, relative to the page."""
    return quote("/".join(_parts(result, file)))


def _pair(result: ClipResult) -> tuple[str, str]:
    return result.job.source, result.job.driving


def _score(result: ClipResult, metric: Metric) -> ScoreView:
    model, copied = (result.scores.get(metric.key + side, math.nan) for side in ("", COPY_SOURCE))
    return ScoreView(metric.label, format_score(metric, model), format_score(metric, copied))


def _bar(result: ClipResult, left: float, width: float) -> GainBar:
    copied, model = (100 * (result.scores[PSNR.key + side] - left) / width for side in (COPY_SOURCE, ""))
    return GainBar(copied, model)


def _parts(result: ClipResult, file: str) -> tuple[str, ...]:
    return CLIPS, result.job.mode, result.job.folder_name, file


def _file(folder: Location, result: ClipResult, file: str) -> Location:
    return join(folder, *_parts(result, file))


def _open(picture: Location) -> Image.Image:
    return Image.open(io.BytesIO(read_bytes(picture)), formats=("JPEG", "PNG"))
