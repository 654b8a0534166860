"""Report content to one HTML page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from safa.inference.evaluation import FILM, STRIP, ClipResult
from safa.metrics import COPY_SOURCE, METRICS, PSNR, Metric
from safa.report.charts import Chart, training_charts
from safa.report.content import Headline, ReportContent, headlines

CLIPS = "clips"  # folder beside the page: clips/<mode>/<folder name>/
FEATURED = 3  # worst and best clips shown with film and strip
ANIMATED = 12  # animations shown likewise; the table has all
STRIP_WIDTH = 1600  # px of a strip inside the page; a click opens the whole one
STRIP_QUALITY = 85
UNKNOWN = "–"


@dataclass(frozen=True)
class Card:
    """A headline as it is shown; ``gain`` is how much better, or worse, than copying the source."""

    label: str
    value: str
    copy_source: str
    gain: str
    better: bool
    definition: str


@dataclass(frozen=True)
class Row:
    """A clip in the table.

    Attributes:
        cells: shown text and sort key of every score.
        bar: where copy-the-source's PSNR and the model's lie, 0 to 100.
    """

    name: str
    film: str
    people: str
    n_frames: int
    cells: tuple[tuple[str, float], ...]
    bar: tuple[float, float] | None


@dataclass(frozen=True)
class Showpiece:
    """A clip with its film and strip; addresses are relative to the page.

    Attributes:
        scores: label, model, copy-the-source.
        strip: a data address, small enough for the page.
    """

    title: str
    people: str
    scores: tuple[tuple[str, str, str], ...]
    film: str
    strip: str
    whole_strip: str


@dataclass(frozen=True)
class CurveGroup:
    """The charts of one training run."""

    name: str
    settings: tuple[str, ...]
    charts: tuple[Chart, ...]


def write_page(content: ReportContent, path: Path) -> None:
    """Write the page; the clips' folders must lie beside it already. It appears whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(render_page(content, path.parent), encoding="utf-8")
    part.replace(path)


def render_page(content: ReportContent, folder: Path) -> str:
    """The page's text. ``folder`` is where it will lie: strips are read from there."""
    rebuilt = sorted(content.of_mode("reconstruction"), key=_psnr_gain)
    # Few clips are all shown once, worst first; of many, both ends.
    few = len(rebuilt) <= 2 * FEATURED
    worst, best = (rebuilt, []) if few else (rebuilt[:FEATURED], rebuilt[-FEATURED:][::-1])
    animated = content.of_mode("animation")
    environment = Environment(
        loader=PackageLoader("safa.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        content=content,
        cards=[_card(line) for line in headlines(content.results)],
        summary=_summary(content),
        worst=[_showpiece(result, folder) for result in worst],
        best=[_showpiece(result, folder) for result in best],
        few=few,
        animated=[_showpiece(result, folder) for result in animated[:ANIMATED]],
        num_animated=len(animated),
        metrics=METRICS,
        rows=_rows(rebuilt),
        animation_rows=[_row(result, None) for result in animated],
        curves=[
            CurveGroup(r.name, r.settings, training_charts(r.records, COPY_SOURCE)) for r in content.runs
        ],
        stages=_stages(content),
    )


# ---- numbers -----------------------------------------------------------------------------------------------


def shown(metric: Metric, value: float) -> str:
    """A metric's value with its unit; a dash where there is none."""
    if not math.isfinite(value):
        return UNKNOWN
    unit = f" {metric.unit}" if metric.unit else ""
    return f"{bare(metric, value)}{unit}"


def bare(metric: Metric, value: float) -> str:
    """The same without its unit, for tables that name it above."""
    return f"{value * metric.shown_times:.{metric.digits}f}" if math.isfinite(value) else UNKNOWN


def _card(line: Headline) -> Card:
    metric = line.metric
    return Card(
        label=metric.label,
        value=shown(metric, line.value),
        copy_source=shown(metric, line.copy_source),
        gain=shown(metric, abs(line.gain)),
        better=line.gain > 0,
        definition=metric.definition,
    )


def _summary(content: ReportContent) -> str:
    """What was found, in a sentence or two."""
    rebuilt, animated = content.of_mode("reconstruction"), content.of_mode("animation")
    parts = []
    if rebuilt:
        people = len({result.driving_person for result in rebuilt})
        frames = sum(result.n_frames for result in rebuilt)
        parts.append(f"{_count(len(rebuilt), 'clip')} of {_people(people)} rebuilt ({frames} frames)")
    if animated:
        parts.append(f"{_count(len(animated), 'animation')} of one person by another")
    text = f"{' and '.join(parts) or 'No clip was evaluated'}."
    psnr = next((line for line in headlines(content.results) if line.metric is PSNR), None)
    if psnr is not None and math.isfinite(psnr.gain):
        verb = "beats" if psnr.gain > 0 else "falls behind"
        text += f" Reconstruction {verb} copying the source by {abs(psnr.gain):.2f} dB PSNR."
    return text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _people(number: int) -> str:
    return "1 person" if number == 1 else f"{number} people"


def _stages(content: ReportContent) -> list[tuple[str, str, float]]:
    """Name, wall time as words, share of the longest in percent."""
    longest = max(content.seconds.values(), default=0) or 1
    return [(name, _duration(s), 100 * s / longest) for name, s in content.seconds.items()]


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


# ---- clips -------------------------------------------------------------------------------------------------


def _psnr_gain(result: ClipResult) -> float:
    gain = result.scores[PSNR.key] - result.scores[PSNR.key + COPY_SOURCE]
    return gain if math.isfinite(gain) else -math.inf


def _rows(results: Sequence[ClipResult]) -> list[Row]:
    ends = [result.scores[PSNR.key + side] for result in results for side in ("", COPY_SOURCE)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    span = (low - 0.05 * (high - low), (high - low) * 1.1 or 1.0)
    return [_row(result, span) for result in results]


def _row(result: ClipResult, span: tuple[float, float] | None) -> Row:
    scores = result.scores
    keys = [(metric, metric.key + side) for metric in METRICS for side in ("", COPY_SOURCE)]
    cells = tuple((bare(metric, scores[key]), scores[key]) for metric, key in keys) if scores else ()
    bar = None
    if span is not None:
        low, width = span
        model, copied = (100 * (scores[PSNR.key + side] - low) / width for side in ("", COPY_SOURCE))
        bar = (copied, model)
    return Row(result.job.title, _address(result, FILM), _who(result), result.n_frames, cells, bar)


def _showpiece(result: ClipResult, folder: Path) -> Showpiece:
    scores = result.scores
    lines = (
        (m.label, shown(m, scores[m.key]), shown(m, scores[m.key + COPY_SOURCE])) for m in METRICS if scores
    )
    return Showpiece(
        title=result.job.title,
        people=_who(result),
        scores=tuple(lines),
        film=_address(result, FILM),
        strip=_data_address(folder / _place(result, STRIP)),
        whole_strip=_address(result, STRIP),
    )


def _who(result: ClipResult) -> str:
    if result.source_person == result.driving_person:
        return result.driving_person
    return f"{result.source_person} driven by {result.driving_person}"


def _place(result: ClipResult, file: str) -> str:
    return f"{CLIPS}/{result.job.mode}/{result.job.folder_name}/{file}"


def _address(result: ClipResult, file: str) -> str:
    return quote(_place(result, file))


def _data_address(path: Path) -> str:
    """A picture as part of the page."""
    with Image.open(path) as picture:
        picture.thumbnail((STRIP_WIDTH, picture.height))
        buffer = io.BytesIO()
        picture.save(buffer, "jpeg", quality=STRIP_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
