"""``curves.png``: the losses and held-out scores of a run, drawn from its ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safa.metrics import COPY_SOURCE

COLUMNS = 4


def draw_curves(records: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """One panel per loss term and per held-out score; copy-the-source is the dashed line of its score.

    Args:
        records: rows of ``read_records``.
        path: a PNG; it appears whole or not at all. Nothing is written without records.
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
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png", dpi=80)
    temporary.replace(path)


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
