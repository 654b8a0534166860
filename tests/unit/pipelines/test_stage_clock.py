"""The line that says what the stages of a graph are doing."""

from __future__ import annotations

import pytest

from pipelines import stage_clock
from pipelines.stage_clock import StageState, stages_line


def test_the_line_has_what_each_stage_did_and_what_waits_for_it() -> None:
    states = {"read": StageState(80, 0.125), "model": StageState(76, 0.97)}
    line = stages_line(("read", "model", "write"), states)
    parts = ["read 80 done, 12% busy", "4 waiting", "model 76 done, 97% busy", "76 waiting"]
    assert line.split(" | ") == [*parts, "write 0 done, 0% busy"]


def test_more_windows_than_went_in_are_none_that_wait() -> None:
    states = {"read": StageState(3, 0.0), "model": StageState(5, 0.0)}  # a report was lost
    assert "| 0 waiting |" in stages_line(("read", "model"), states)


def test_whoever_watches_the_cluster_sees_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[object, ...]] = []
    monkeypatch.setattr(stage_clock, "stage_state", lambda *state: shown.append(state))
    states = {"read": StageState(80, 0.125), "model": StageState(76, 0.97)}
    stage_clock._show_gauges("evaluate", ("read", "model", "write"), states)
    expected = [("read", 0.125, 0), ("model", 0.97, 4), ("write", 0.0, 76)]
    assert shown == [("evaluate", *each) for each in expected]
