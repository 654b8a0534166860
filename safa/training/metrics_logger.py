"""What a run writes for people to follow it; rank 0 alone keeps it.

- ``metrics.jsonl``: every training row and validation (see ``safa.training.records``);
- ``tensorboard/``: the same numbers, and a strip of held-out pictures at every validation;
- ``strip.png``: the newest of these strips; ``curves.png``: all curves.


XXX ``metrics.jsonl``: one JSON object per line, training losses and validation scores in the order of steps.

A training row has ``kind: train`` with ``step``, ``epoch``, ``lr_factor``, rates and ``losses`` (weighted,
means since the row before). A validation row has ``kind: validate`` with ``step`` and ``scores``.


XXX ``curves.png``: the losses and held-out scores of a run, drawn from its ``metrics.jsonl``."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from safa.files import atomic_file, atomic_write
from safa.metrics import COPY_SOURCE, Metric
from safa.training import metrics_logger
from safa.visualize.images import RgbImage

CURVES_EVERY = 60.0  # seconds between drawings, which take about one


class MetricsLogger:
    """Of the run in ``folder``, which goes on after ``step`` finished steps: later rows are forgotten."""

    def __init__(self, folder: Path, title: str, step: int) -> None:
        # Imported by the process that writes: it takes most of a second.
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._title = folder, title
        self._metrics = folder / metrics_logger.FILE_NAME
        metrics_logger.drop_metrics_after(self._metrics, step)
        self._scores: dict[int, dict[str, float]] = {
            row["step"]: row["scores"]
            for row in metrics_logger.read_metrics(self._metrics)
            if row["kind"] == "validate"
        }
        self._board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)
        self._drawn = time.monotonic()

    def training(self, step: int, row: Mapping[str, Any]) -> None:
        """Losses since the row before, and rates."""
        metrics_logger.append_metrics(self._metrics, {"kind": "train", "step": step} | dict(row))
        numbers = {f"loss/{name}": value for name, value in row["losses"].items()}
        numbers |= {f"run/{name}": value for name, value in row.items() if name != "losses"}
        self._plot(step, numbers)

    def validation(self, step: int, scores: Mapping[str, float], seconds: float, strip: RgbImage) -> None:
        """Held-out scores, and what the model made of one clip."""
        row = {"kind": "validate", "step": step, "scores": dict(scores), "seconds": seconds}
        metrics_logger.append_metrics(self._metrics, row)
        self._scores[step] = dict(scores)
        self._plot(step, {f"held_out/{name}": value for name, value in scores.items()})
        self._board.add_image("held_out", strip, step, dataformats="HWC")
        with atomic_file(self._folder / "strip.png") as temporary:
            Image.fromarray(strip).save(temporary, format="png")

    def best_steps(self, metric: Metric, count: int) -> dict[int, float]:
        """The ``count`` validated steps with the best scores, best first; of equal ones the earliest."""
        sign = -1 if metric.higher_is_better else 1
        known = {step: scores[metric.key] for step, scores in self._scores.items() if metric.key in scores}
        ranked = sorted(known, key=lambda step: (sign * known[step], step))
        return {step: known[step] for step in ranked[:count]}

    def draw(self, *, at_once: bool) -> None:
        """Bring files up to date that take a while; unless ``at_once``, only if that was not done lately."""
        self._board.flush()
        if at_once or time.monotonic() - self._drawn > CURVES_EVERY:
            draw_curves(metrics_logger.read_metrics(self._metrics), self._folder / "curves.png", self._title)
            self._drawn = time.monotonic()

    def close(self) -> None:
        """Nothing is written after this."""
        self._board.close()

    def _plot(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)


FILE_NAME = "metrics.jsonl"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All complete rows; a last line that a crash cut off is left out. No file: no rows."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def append_metrics(path: Path, row: Mapping[str, Any]) -> None:
    """Add one row."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def drop_metrics_after(path: Path, step: int) -> None:
    """Forget rows of steps that a resumed run will take again."""
    rows = [row for row in read_metrics(path) if row["step"] <= step]
    atomic_write(path, "".join(json.dumps(row) + "\n" for row in rows))


COLUMNS = 4


def draw_curves(records: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """One panel per loss term and per held-out score; copy-the-source is the dashed line of its score.

    Args:
        records: rows of ``read_metrics``.
        path: a PNG; it is written atomically. Nothing is written without records.
    """
    # The stateless interface: pyplot would choose a display and keep every figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    losses = _series(records, "train", "losses")
    scores = _series(records, "validate", "scores")
    panels = [("loss: " + name, {"": line}) for name, line in losses.items()]
    for name, line in scores.items():
        if not name.endswith(COPY_SOURCE):
            lines = {"model": line}
            if name + COPY_SOURCE in scores:
                lines["copy the source"] = scores[name + COPY_SOURCE]
            panels.append(("held out: " + name, lines))
    if not panels:
        return
    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(3.4 * COLUMNS, 2.3 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(rows, COLUMNS, squeeze=False).flat
    for axis, (name, lines) in zip(axes, panels, strict=False):
        for label, line in lines.items():
            axis.plot(*line, label=label, linestyle="--" if label.startswith("copy") else "-", linewidth=1)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        if len(lines) > 1:
            axis.legend(fontsize=7)
        if name.startswith("loss") and min(next(iter(lines.values()))[1]) > 0:
            axis.set_yscale("log")
    for axis in list(figure.axes)[len(panels) :]:
        axis.set_axis_off()
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=80)


def _series(
    records: Sequence[Mapping[str, Any]], kind: str, field: str
) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values by name, in order of first appearance."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    for row in records:
        if row["kind"] == kind:
            for name, value in row[field].items():
                steps, values = series.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(value)
    return series
