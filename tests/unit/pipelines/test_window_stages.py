"""Stages of evaluation in one process: what a former attempt has written is not made again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import window_stages
from pipelines.window_stages import READ, SCORE, STAGES, Item, WindowRunner, items_of, table_of
from safa.config.inference import EvaluateConfig
from safa.errors import ClipError, FailureCode
from safa.evaluation.frame_scores import SCORES
from safa.evaluation.jobs import EvaluationJob
from safa.evaluation.parts import add_up
from safa.evaluation.window_stages import ScoredWindow
from safa.evaluation.windows import Window, windows_of

CLIP = "ann#v#000000#000010"
WINDOWS = list(windows_of(EvaluationJob("reconstruction", CLIP, CLIP), 0, 10, 2, shown=False))


class Counting(WindowRunner):
    """Stages without a model; the windows that were read, and what is wrong with one of them."""

    def __init__(self, out: Path, bad: int | None = None, clock: Any = None) -> None:
        config = EvaluateConfig(model=Path("m"), clips=Path("c"), out=out)
        super().__init__(config, STAGES, clock)
        self.read: list[int] = []
        self._bad = bad

    def _do(self, name: str, made: Any) -> Any:
        window = made if isinstance(made, Window) else made[0]
        if name == READ:
            self.read.append(window.index)
            if window.index == self._bad:
                raise ClipError(FailureCode.DECODE, "no picture")
        if name == SCORE:
            scores = np.full((window.last - window.first, len(SCORES)), math.nan)
            return ScoredWindow(window, "ann", "ann", 25.0, scores, None, {}, 0.0)
        return (window,)


def test_what_a_former_attempt_has_written_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_stages, "PART_SECONDS", 0.0)  # a part for each window
    block = table_of(map(Item, WINDOWS))
    first = Counting(tmp_path)
    attempt = first(block)
    for _ in range(2):
        next(attempt)
    attempt.close()  # type: ignore[attr-defined]
    assert first.read == [0, 1]
    second = Counting(tmp_path)
    outcomes = [item for table in second(block) for item in items_of(table)]
    assert second.read == [2, 3, 4]
    assert sorted(item.window.index for item in outcomes) == [0, 1, 2, 3, 4]
    assert add_up(tmp_path, np.array([10]), 2).complete.tolist() == [True]


def test_a_window_that_fails_is_an_outcome_beside_the_others(tmp_path: Path) -> None:
    block = table_of(map(Item, WINDOWS))
    outcomes = [item for table in Counting(tmp_path, bad=3)(block) for item in items_of(table)]
    (failed,) = (item for item in outcomes if item.failure is not None)
    assert (failed.window.index, failed.failure.code) == (3, FailureCode.DECODE)  # type: ignore[union-attr]
    assert len(outcomes) == 5
    assert add_up(tmp_path, np.array([10]), 2).seen.tolist() == [True, True, True, False, True]


class Clock:
    """What is reported, in order: (stage, windows), and ``send``."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def count(self, stage: str, windows: int, seconds: float) -> None:
        assert seconds >= 0
        self.events.append((stage, windows))

    def send(self) -> None:
        self.events.append("send")


def test_what_was_counted_last_is_reported_when_the_block_is_done(tmp_path: Path) -> None:
    """A clock reports once a second by itself; without this, the last second of each block is missing."""
    clock = Clock()
    list(Counting(tmp_path, bad=3, clock=clock)(table_of(map(Item, WINDOWS))))
    *counted, last = clock.events
    assert last == "send"
    done = {stage: sum(n for each, n in counted if each == stage) for stage in STAGES}
    assert done == {"read": 5, "model": 4, "networks": 4, "score": 4, "write": 5}


def test_rows_between_processes_are_what_was_put_in() -> None:
    items = [Item(WINDOWS[0], {"made": np.arange(3)}), Item(WINDOWS[1])]
    first, second = items_of(table_of(items))
    assert first.window == WINDOWS[0]
    assert first.made["made"].tolist() == [0, 1, 2]
    assert second == items[1]
