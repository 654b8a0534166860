"""The chain of stages: stopped anywhere, it resumes; changed settings are refused; times add up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import chain, lease
from pipelines.chain import Seconds, Stage, run_chain
from pipelines.lease import exclusive
from pipelines.machines import Need
from safa.config import Settings
from safa.errors import UserError
from safa.files import atomic_write, join

pytestmark = pytest.mark.ray  # not itself: the folder's session does


class Knobs(Settings):
    depth: int = 1
    machines: int = 1


class Work:
    """Two stages that note when they run; the second one fails on demand."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.done: list[str] = []
        self.sessions = 0
        self.fails = False
        self.seconds: Seconds = {}

    def stages(self, first: Knobs, second: Knobs) -> list[Stage]:
        not_hashed = frozenset({"machines"})
        return [
            Stage("first", first, not_hashed, self.run / "first", self._worker("first")),
            Stage("second", second, not_hashed, self.run / "second", self._worker("second")),
        ]

    def go(self, first: Knobs = Knobs(), second: Knobs = Knobs()) -> dict[str, float]:  # noqa: B008 - frozen
        return run_chain(self.run, self.stages(first, second), self._session)

    @contextmanager
    def _session(self) -> Iterator[None]:
        self.sessions += 1
        yield

    def _worker(self, name: str) -> Callable[[Seconds], object]:
        def work(seconds: Seconds) -> None:
            self.seconds = seconds
            (self.run / name).mkdir(exist_ok=True)
            (self.run / name / "half").touch()
            if self.fails and name == "second":
                raise KeyboardInterrupt
            self.done.append(name)

        return work


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path / "run")


def test_what_a_later_stage_needs_is_looked_at_first_unless_it_is_finished(work: Work) -> None:
    """Hours of the first stages would be in vain on machines that the last one cannot use."""

    def stages() -> list[Stage]:
        first, second = work.stages(Knobs(), Knobs())
        return [first, replace(second, needs=lambda: [Need("second", {"GPU": 999}, "scale", "Use more.")])]

    with pytest.raises(UserError, match=r"scale: second asks for 999 GPUs"):
        run_chain(work.run, stages(), work._session)
    assert work.done == []
    work.go()
    (work.run / "first" / "half").unlink()
    (work.run / "first").rmdir()
    run_chain(work.run, stages(), work._session)
    assert work.done == ["first", "second", "first"]


def test_what_is_finished_is_not_done_again(work: Work) -> None:
    work.fails = True
    with pytest.raises(KeyboardInterrupt):
        work.go()
    work.fails = False
    work.go()
    work.go()
    assert work.done == ["first", "second"]
    assert work.sessions == 2  # none where there was nothing to do


def test_times_add_up_over_starts(work: Work) -> None:
    work.fails = True
    with pytest.raises(KeyboardInterrupt):
        work.go()
    path = work.run / chain.FILE_NAME
    records = json.loads(path.read_text())
    assert not records["second"]["done"]
    records["second"]["seconds"] = 50.0
    path.write_text(json.dumps(records))
    work.fails = False
    assert 50.0 <= work.go()["second"] < 60.0
    assert work.seconds["second"] >= 50.0
    assert work.seconds["first"] == records["first"]["seconds"]


def test_a_killed_run_has_its_time_too(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "BEAT", 0.01)
    seen: list[float] = []

    def slow(_: Seconds) -> None:
        (work.run / "slow").mkdir()
        until = time.monotonic() + 20
        while time.monotonic() < until and not any(seconds > 0.05 for seconds in seen):
            seen.append(json.loads((work.run / chain.FILE_NAME).read_text())["slow"]["seconds"])

    run_chain(work.run, [Stage("slow", Knobs(), frozenset(), work.run / "slow", slow)], work._session)
    assert max(seen) > 0.05


def test_other_settings_name_every_folder_that_is_in_the_way(work: Work) -> None:
    work.go()
    with pytest.raises(UserError, match=r"first \(depth: 1 -> 2\), \S+second\. Delete these folders"):
        work.go(first=Knobs(depth=2, machines=3))
    with pytest.raises(UserError, match=r"other settings: \S+second \(depth: 1 -> 2\)\. Delete"):
        work.go(second=Knobs(depth=2))
    assert work.done == ["first", "second"]


def test_a_deleted_folder_is_made_anew_with_the_new_settings(work: Work) -> None:
    work.go()
    shutil.rmtree(work.run / "second")
    work.go(second=Knobs(depth=2))
    assert work.done == ["first", "second", "second"]


def test_machines_may_change(work: Work) -> None:
    work.go()
    work.go(first=Knobs(machines=8))
    assert work.done == ["first", "second"]


def test_an_interrupt_stays_an_interrupt(work: Work) -> None:
    """A stage may set a handler of its own and end the process by it."""
    before = signal.getsignal(signal.SIGINT)

    def ends(_: Seconds) -> None:
        signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
        os.kill(os.getpid(), signal.SIGINT)

    stage = Stage("ends", Knobs(), frozenset(), work.run / "ends", ends)
    with pytest.raises(KeyboardInterrupt):
        run_chain(work.run, [stage], work._session)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_stage_that_failed_at_once_may_be_corrected(work: Work) -> None:
    def fails(_: Seconds) -> None:
        (work.run / "second").mkdir()
        (work.run / "second" / "config.yaml").touch()
        raise UserError("no such file")

    stage = replace(work.stages(Knobs(), Knobs(depth=9))[1], work=fails)
    with pytest.raises(UserError, match="no such file"):
        run_chain(work.run, [work.stages(Knobs(), Knobs())[0], stage], work._session)
    work.go()
    assert work.done == ["first", "second"]


def test_records_of_an_older_version_are_read(work: Work) -> None:
    work.go()
    path = work.run / chain.FILE_NAME
    records = json.loads(path.read_text())
    path.write_text(json.dumps({k: {"key": v["key"], "done": v["done"]} for k, v in records.items()}))
    with pytest.raises(UserError, match=r"other settings: \S+second\. Delete"):
        work.go(second=Knobs(depth=2))
    work.go()
    assert work.done == ["first", "second"]


def test_one_program_at_a_time(work: Work) -> None:
    with exclusive(work.run), pytest.raises(UserError, match=f"at work here .process {os.getpid()}"):
        work.go()
    work.go()


def test_a_stage_may_hold_its_own_folder(work: Work) -> None:
    def holds(_: Seconds) -> None:
        with exclusive(work.run / "held"):
            work.done.append("held")

    run_chain(work.run, [Stage("held", Knobs(), frozenset(), work.run / "held", holds)], work._session)
    assert work.done == ["held"]


@pytest.mark.usefixtures("impatient")
def test_a_chain_runs_in_an_object_store(s3: str) -> None:
    done: list[str] = []

    def work(_: Seconds) -> None:
        atomic_write(join(s3, "first", "output"), b"x")
        done.append("first")

    for _ in range(2):
        seconds = run_chain(s3, [Stage("first", Knobs(), frozenset(), join(s3, "first"), work)], nullcontext)
    assert done == ["first"]
    assert seconds["first"] > 0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SETTLE", 0.05)


def test_a_damaged_record_is_reported(work: Work) -> None:
    work.go()
    (work.run / chain.FILE_NAME).write_text("{")
    with pytest.raises(UserError, match=r"cannot be read\. Delete it"):
        work.go()
