"""What a run writes for people to follow it; rank 0 alone keeps it.

- ``metrics.jsonl``: every training row and validation (see ``safa.training.records``);
- ``tensorboard/``: the same numbers, and a strip of held-out pictures at every validation;
- ``strip.png``: the newest of these strips; ``curves.png``: all curves.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from safa.metrics import Metric
from safa.pictures.canvas import Picture
from safa.training import records
from safa.training.curves import draw_curves

CURVES_EVERY = 60.0  # seconds between drawings, which take about one


class Journal:
    """Of the run in ``folder``, which goes on after ``step`` finished steps: later rows are forgotten."""

    def __init__(self, folder: Path, title: str, step: int) -> None:
        # Imported by the process that writes: it takes most of a second.
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._title = folder, title
        self._metrics = folder / records.FILE_NAME
        records.drop_records_after(self._metrics, step)
        self._scores: dict[int, dict[str, float]] = {
            row["step"]: row["scores"]
            for row in records.read_records(self._metrics)
            if row["kind"] == "validate"
        }
        self._board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)
        self._drawn = time.monotonic()

    def training(self, step: int, row: Mapping[str, Any]) -> None:
        """Losses since the row before, and rates."""
        records.append_record(self._metrics, {"kind": "train", "step": step} | dict(row))
        numbers = {f"loss/{name}": value for name, value in row["losses"].items()}
        numbers |= {f"run/{name}": value for name, value in row.items() if name != "losses"}
        self._plot(step, numbers)

    def validation(self, step: int, scores: Mapping[str, float], seconds: float, strip: Picture) -> None:
        """Held-out scores, and what the model made of one clip."""
        row = {"kind": "validate", "step": step, "scores": dict(scores), "seconds": seconds}
        records.append_record(self._metrics, row)
        self._scores[step] = dict(scores)
        self._plot(step, {f"held_out/{name}": value for name, value in scores.items()})
        self._board.add_image("held_out", strip, step, dataformats="HWC")
        temporary = self._folder / ".strip.png.tmp"
        Image.fromarray(strip).save(temporary, format="png")
        temporary.replace(self._folder / "strip.png")

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
            draw_curves(records.read_records(self._metrics), self._folder / "curves.png", self._title)
            self._drawn = time.monotonic()

    def close(self) -> None:
        """Nothing is written after this."""
        self._board.close()

    def _plot(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)
