"""What the stages of a graph are doing, while they do it: windows or clips done, and how busy each stage is.

Workers report to one small actor, at most once a second each; the driver asks it for a line of progress. A
report that is lost, with a worker that died, is missing from the line and from nothing else.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray
from ray.exceptions import RayError

from pipelines.ray_metrics import stage_state

log = logging.getLogger(__name__)

SHOW_EVERY = 5.0  # seconds between lines of progress
REPORT_EVERY = 1.0  # seconds
ANSWER_WITHIN = 2.0  # seconds, of the actor


@dataclass(frozen=True)
class StageState:
    """One stage since the last question: what it has done in all, and the share of its processes' time."""

    done: int
    busy: float


class _Counts:
    """The actor: sums of all reports."""

    def __init__(self) -> None:
        self._done: dict[str, int] = {}
        self._busy: dict[str, float] = {}
        self._workers: dict[str, set[str]] = {}
        self._since = time.monotonic()

    def add(self, worker: str, rows: dict[str, tuple[int, float]]) -> None:
        for stage, (done, busy) in rows.items():
            self._done[stage] = self._done.get(stage, 0) + done
            self._busy[stage] = self._busy.get(stage, 0.0) + busy
            self._workers.setdefault(stage, set()).add(worker)

    def take(self) -> dict[str, tuple[int, float]]:
        """Of each stage: done in all, and the busy share since the last call."""
        now = time.monotonic()
        spent = max(now - self._since, 1e-9)
        states = {
            stage: (
                done,
                min(1.0, self._busy.get(stage, 0.0) / (spent * max(1, len(self._workers.get(stage, ()))))),
            )
            for stage, done in self._done.items()
        }
        self._busy, self._workers, self._since = {}, {}, now
        return states


class StageClock:
    """Counts the work of stages. A copy that was sent to a worker reports to the same actor."""

    def __init__(self) -> None:
        self._actor = ray.remote(num_cpus=0, max_restarts=-1)(_Counts).remote()
        self._waiting: dict[str, tuple[int, float]] = {}
        self._last = time.monotonic()

    def __getstate__(self) -> dict[str, object]:
        return {"_actor": self._actor}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._waiting, self._last = {}, 0.0

    def count(self, stage: str, done: int, seconds: float) -> None:
        """Count work that took so many seconds."""
        before = self._waiting.get(stage, (0, 0.0))
        self._waiting[stage] = (before[0] + done, before[1] + seconds)
        if time.monotonic() - self._last > REPORT_EVERY:
            self.send()

    def send(self) -> None:
        """Report what was counted. To be called when the last work of a task is done."""
        if self._waiting:
            self._actor.add.remote(f"{ray.util.get_node_ip_address()}/{os.getpid()}", self._waiting)
            self._waiting, self._last = {}, time.monotonic()

    def states(self) -> dict[str, StageState]:
        """Of each stage that has begun; empty where the actor does not answer."""
        try:
            found = ray.get(self._actor.take.remote(), timeout=ANSWER_WITHIN)
        except RayError:
            return {}
        return {stage: StageState(*values) for stage, values in found.items()}


def stages_line(names: Sequence[str], states: dict[str, StageState]) -> str:
    """The stages in words: ``read 80 done, 12 % busy | 4 waiting | model 76 done, 97 % busy``."""
    parts: list[str] = []
    before: int | None = None
    for name in names:
        state = states.get(name, StageState(0, 0.0))
        if before is not None:
            parts.append(f"{max(0, before - state.done)} waiting")
        parts.append(f"{name} {state.done} done, {state.busy:.0%} busy")
        before = state.done
    return " | ".join(parts)


def _show_gauges(name: str, stages: Sequence[str], states: dict[str, StageState]) -> None:
    """The same numbers, for those who watch the cluster."""
    before = states[stages[0]].done if stages[0] in states else 0
    for stage in stages:
        state = states.get(stage, StageState(0, 0.0))
        stage_state(name, stage, state.busy, max(0, before - state.done))
        before = state.done


@contextmanager
def live_stages(name: str, stages: Sequence[str]) -> Iterator[StageClock]:
    """A clock for the block; a line in the log says every few seconds what its stages are doing.

    Args:
        name: of the pipeline.
        stages: in their order.
    """
    clock, stopped = StageClock(), threading.Event()

    def show() -> None:
        while not stopped.wait(SHOW_EVERY):
            states = clock.states()
            if states:
                _show_gauges(name, stages, states)
                log.info("%s: %s", name, stages_line(stages, states))

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield clock
    finally:
        stopped.set()
        thread.join()
        _show_gauges(name, stages, {})  # idle
