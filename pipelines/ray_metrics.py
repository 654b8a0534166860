"""What an operator sees of a run: numbers that Ray's agents offer to Prometheus, drawn by ``deploy/grafana``.

Every function may be called by a driver, task or actor; where there is no Ray it does nothing. Rates are left
to Prometheus: a counter that grows survives restarts and sums over nodes. Ray Data counts queues and busy
time of its operators (``data_num_external_inqueue_blocks``, ``data_function_body_time_s`` and others); stages
that share an operator are separate here.

    clip_finished("preprocess", code="", n_frames=120)       # a clip became output
    clip_finished("preprocess", code="no_face")              # or was refused
    stage_state("evaluate", "model", busy=0.9, waiting=4)    # every few seconds
    training_row("runs/x", rank, row)                        # at each row of the log
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import ray
from ray.util.metrics import Counter, Gauge

OK = "ok"


def clip_finished(stage: str, code: str, n_frames: int = 0) -> None:
    """Count one clip of a stage.

    Args:
        stage: e.g. ``preprocess``.
        code: why it was refused, one of ``FailureCode``; empty if it became output.
        n_frames: frames that were made of it.
    """
    if not ray.is_initialized():
        return
    _clips().inc(1, {"stage": stage, "outcome": code or OK})
    frames_made(stage, n_frames)


def frames_made(stage: str, n_frames: int) -> None:
    """Count frames, for a stage that makes them before their clip is finished."""
    if n_frames and ray.is_initialized():
        _frames().inc(n_frames, {"stage": stage})


def stage_state(pipeline: str, stage: str, busy: float, waiting: int) -> None:
    """Show what a stage is doing now.

    Args:
        busy: the share of its processes' time in which they work, 0 to 1.
        waiting: windows or clips that the stage before it has done, and it has not.
    """
    if not ray.is_initialized():
        return
    tags = {"stage": pipeline, "part": stage}
    _busy().set(busy, tags)
    _waiting().set(waiting, tags)


def training_row(run: str, rank: int, row: Mapping[str, float]) -> None:
    """Show the progress of training on one worker.

    Args:
        run: its name.
        row: ``step``, ``steps_per_second``, ``data_share`` (of the time, 0 to 1) and ``checkpoint_seconds``
            (that training has waited for states, in all); what is missing is left as it was.
    """
    if not ray.is_initialized():
        return
    tags = {"run": run, "rank": str(rank)}
    for name, gauge in _training().items():
        if name in row:
            gauge.set(row[name], tags)
    if row.get("steps_per_second"):
        _step_seconds().set(1 / row["steps_per_second"], tags)


@cache
def _clips() -> Counter:
    return Counter("safa_clips_total", "Clips, by outcome: ok, or why not.", ("stage", "outcome"))


@cache
def _frames() -> Counter:
    return Counter("safa_frames_total", "Frames made.", ("stage",))


@cache
def _busy() -> Gauge:
    return Gauge("safa_stage_busy_share", "Share of the time in which a stage works.", ("stage", "part"))


@cache
def _waiting() -> Gauge:
    return Gauge("safa_stage_waiting", "Windows or clips that wait for a stage.", ("stage", "part"))


@cache
def _step_seconds() -> Gauge:
    return Gauge("safa_train_step_seconds", "Time of a training step.", ("run", "rank"))


@cache
def _training() -> dict[str, Gauge]:
    texts = {
        "step": "Finished training steps.",
        "data_share": "Share of a step spent waiting for data.",
        "checkpoint_seconds": "Time that training has waited for states to be saved.",
    }
    return {name: Gauge(f"safa_train_{name}", text, ("run", "rank")) for name, text in texts.items()}
