"""The line that says what the stages of a graph are doing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import stage_clock
from pipelines.clip_stages import CROP, WRITE, StageRunner, Stored, Video, items_of, tables_of
from pipelines.stage_clock import StageState, stages_line
from safa.config.preprocess import ClipsSource, NoLandmarks, PreprocessConfig
from safa.data.sources import list_jobs
from safa.data.video import write_video


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


class _Clock:
    """Remembers what is counted."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        self.sent = False

    def count(self, stage: str, done: int, seconds: float) -> None:
        self.done[stage] = self.done.get(stage, 0) + done
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def send(self) -> None:
        self.sent = True


class _Slow(StageRunner):
    """Cropping sleeps a little for each clip; writing takes what it takes."""

    def _stage(self, stage: str, name: str) -> Any:
        work = super()._stage(stage, name)

        def slowly(items: Iterable[Any]) -> Iterator[Any]:
            for item in work(items):
                time.sleep(0.2)
                yield item

        return slowly if stage == CROP else work


def test_the_time_of_stages_that_share_a_process_is_kept_apart(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for number in range(2):
        frames = (np.full((48, 48, 3), 10 * t, np.uint8) for t in range(12))
        write_video(tmp_path / "videos" / f"p{number}#v#000000#000012.mp4", frames, 25.0)
    source = ClipsSource(kind="clips", folder=tmp_path / "videos")
    none = NoLandmarks(kind="none")
    config = PreprocessConfig(
        source=source, out=tmp_path / "out", landmarks=none, size=32, min_frames=4, min_box=16
    )
    (block,) = tables_of([Video((job,)) for job in list_jobs(source).jobs])
    clock = _Clock()
    runner = _Slow(config, (CROP, WRITE), clock)  # type: ignore[arg-type]
    stored = [item for table in runner(block) for item in items_of(table)]
    assert all(isinstance(item, Stored) for item in stored)
    assert clock.done == {CROP: 2, WRITE: 2}
    assert clock.seconds[CROP] >= 0.4 > clock.seconds[WRITE] > 0
    assert clock.sent
