"""The metrics of a run, for people to follow it; only rank 0 writes them.

- ``metrics.jsonl``: one JSON object per line, in the order of steps. A training row has ``kind: train`` with
  ``step``, ``epoch``, ``lr_factor``, rates and ``losses`` (weighted means since the row before). A validation
  row has ``kind: validate`` with ``step`` and ``scores``;
- ``curves.png``: all losses and held-out scores, drawn from these rows;
- ``strip.png``: the newest strip of held-out images;
- ``tensorboard/``: the same numbers, and every strip. ``safa.training.trackers`` sends the numbers elsewhere.

For a run in an object store they are written on local scratch; ``sync`` uploads what has changed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from safa.config.training import TrainConfig
from safa.files import LocalMirror, Location, atomic_file, atomic_write, is_file, read_bytes, reporting_errors
from safa.metrics import COPY_SOURCE, Metric
from safa.training.trackers import start_tracking
from safa.visualize.images import RgbImage

FILE_NAME = "metrics.jsonl"
CURVES_EVERY = 60.0  # seconds between drawings, which take about one
COLUMNS = 4  # of the curves
EVENTS_BYTES = 2**24  # of one TensorBoard file of a run in an object store, where each upload is of all of it


# ---- rows --------------------------------------------------------------------------------------------------


def read_metrics(path: Location) -> list[dict[str, Any]]:
    """Read all complete rows; a last line that a crash cut off is left out. Without a file there are none."""
    if not is_file(path):
        return []
    with reporting_errors(path):
        text = read_bytes(path).decode("utf-8", "replace")
    rows = []
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return rows


def append_metrics(path: Path, row: Mapping[str, Any]) -> None:
    """Append one row."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def drop_metrics_after(path: Path, step: int) -> None:
    """Delete the rows of steps that a resumed run will take again."""
    rows = [row for row in read_metrics(path) if row["step"] <= step]
    atomic_write(path, "".join(json.dumps(row) + "\n" for row in rows))


# ---- curves ------------------------------------------------------------------------------------------------


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Draw one panel per loss term and per held-out score; its dashed line is what copying the source scores.

    Args:
        rows: as ``read_metrics`` gives them. Without any, nothing is written.
        path: a PNG, written atomically.
    """
    # The stateless interface: pyplot would choose a display and keep every figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    losses = _series(rows, "train", "losses")
    scores = _series(rows, "validate", "scores")
    panels = [("loss: " + name, {"": line}) for name, line in losses.items()]
    for name, line in scores.items():
        if not name.endswith(COPY_SOURCE):
            lines = {"model": line}
            if name + COPY_SOURCE in scores:
                lines["copy the source"] = scores[name + COPY_SOURCE]
            panels.append(("held out: " + name, lines))
    if not panels:
        return
    num_rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(3.4 * COLUMNS, 2.3 * num_rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = figure.subplots(num_rows, COLUMNS, squeeze=False).flat
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
    rows: Sequence[Mapping[str, Any]], kind: str, field: str
) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values by name, in order of first appearance."""
    series: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows:
        if row["kind"] == kind:
            for name, value in row[field].items():
                steps, values = series.setdefault(name, ([], []))
                steps.append(row["step"])
                values.append(value)
    return series


# ---- logger ------------------------------------------------------------------------------------------------


class MetricsLogger:
    """Writes the metrics of one run.

    Args:
        config: of the run: its name, its folder, who follows it.
        step: finished steps of the run that is started or resumed; rows of later steps are deleted.
    """

    def __init__(self, config: TrainConfig, step: int) -> None:
        # Imported by the process that writes: it takes most of a second.
        from torch.utils.tensorboard import SummaryWriter

        folder = config.folder
        self._mirror, self._title = LocalMirror(folder), config.name
        self._mirror.fetch(FILE_NAME)
        self._folder = self._mirror.path
        self._metrics = self._folder / FILE_NAME
        drop_metrics_after(self._metrics, step)
        self._scores: dict[int, dict[str, float]] = {
            row["step"]: row["scores"] for row in read_metrics(self._metrics) if row["kind"] == "validate"
        }
        self._board = SummaryWriter(self._folder / "tensorboard", purge_step=step + 1)
        self._drawn = time.monotonic()
        self._tracking = start_tracking(
            *(config.tracking, folder, self._folder),
            program="train",
            name=config.name,
            settings=config.model_dump(mode="json"),
        )

    def log_training(self, step: int, row: Mapping[str, Any]) -> None:
        """Log the losses since the row before, and rates."""
        append_metrics(self._metrics, {"kind": "train", "step": step} | dict(row))
        numbers = {f"loss/{name}": value for name, value in row["losses"].items()}
        numbers |= {f"run/{name}": value for name, value in row.items() if name != "losses"}
        self._plot(step, numbers)

    def log_validation(self, step: int, scores: Mapping[str, float], seconds: float, strip: RgbImage) -> None:
        """Log held-out scores, and a strip of images of one clip."""
        row = {"kind": "validate", "step": step, "scores": dict(scores), "seconds": seconds}
        append_metrics(self._metrics, row)
        self._scores[step] = dict(scores)
        self._plot(step, {f"held_out/{name}": value for name, value in scores.items()})
        self._board.add_image("held_out", strip, step, dataformats="HWC")
        with atomic_file(self._folder / "strip.png") as temporary:
            Image.fromarray(strip).save(temporary, format="png")

    def best_steps(self, metric: Metric, count: int) -> dict[int, float]:
        """Find the ``count`` validated steps with the best scores, best first; of equal ones the earliest."""
        sign = -1 if metric.higher_is_better else 1
        known = {step: scores[metric.key] for step, scores in self._scores.items() if metric.key in scores}
        ranked = sorted(known, key=lambda step: (sign * known[step], step))
        return {step: known[step] for step in ranked[:count]}

    def flush(self) -> None:
        """Let TensorBoard see all numbers so far."""
        self._board.flush()
        if self._mirror.is_remote and self._events_bytes() > EVENTS_BYTES:
            self._board.close()  # the next number opens a new file

    def publish(self, *, draw: bool) -> None:
        """Draw the curves, and upload what has changed, if the run is in an object store.

        That takes a second and more, so the thread that writes states calls it, while numbers may be logged.

        Args:
            draw: the curves even if they are less than a minute old.

        Raises:
            UserError: the store refuses.
        """
        if draw or time.monotonic() - self._drawn > CURVES_EVERY:
            draw_curves(read_metrics(self._metrics), self._folder / "curves.png", self._title)
            self._drawn = time.monotonic()
        self._mirror.sync()

    def close(self, *, finished: bool) -> None:
        """Close the files, and upload them; nothing may be logged after this.

        Args:
            finished: whether the run came to its end, for those who follow it.

        Raises:
            UserError: the store refuses.
        """
        self._board.close()
        if self._tracking is not None:
            self._tracking.close(finished=finished)
        try:
            self._mirror.sync()
        finally:
            self._mirror.close()

    def _events_bytes(self) -> int:
        newest = max((self._folder / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime_ns)
        return newest.stat().st_size

    def _plot(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)
        if self._tracking is not None:
            self._tracking.log(step, numbers)
