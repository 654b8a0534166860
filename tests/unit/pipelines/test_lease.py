"""One run per folder, by a lock and by leases: who starts, who has to wait, who takes over from the dead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import lease
from pipelines.lease import LEASES, exclusive, needs_lease
from safa.errors import UserError

HOLD = """
import sys, time
from pipelines import lease
lease.BEAT, lease.SETTLE = 0.1, 0.2
lease.needs_lease = lambda folder: sys.argv[2] == "lease"
with lease.exclusive(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["lock", "lease"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(lease, "needs_lease", lambda folder: request.param == "lease")
    for name, seconds in (("BEAT", 0.1), ("SETTLE", 0.2), ("STALE", 1.5)):
        monkeypatch.setattr(lease, name, seconds)
    return str(request.param)


@pytest.fixture
def holder(kind: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds ``tmp_path / run``."""
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run"), kind]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_start_is_refused_with_the_name_of_the_first(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"at work here .*process {holder.pid}"), exclusive(tmp_path / "run"):
        pytest.fail("two programs in one folder")


def test_the_dead_hold_nothing(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    holder.kill()
    holder.wait()
    began = time.monotonic()
    with exclusive(tmp_path / "run"):
        assert time.monotonic() - began < 1.0


def test_a_folder_is_free_again_afterwards(kind: str, tmp_path: Path) -> None:
    for _ in range(2):
        with exclusive(tmp_path / "run"):
            pass
    with pytest.raises(RuntimeError, match="on purpose"), exclusive(tmp_path / "run"):
        raise RuntimeError("on purpose")
    with exclusive(tmp_path / "run"):
        pass


@pytest.mark.parametrize("kind", ["lease"], indirect=True)
def test_a_lease_of_another_machine_lapses_without_renewals(kind: str, tmp_path: Path) -> None:
    other = lease._Lease("0-other.json", "elsewhere", 1, "", 7, held=True)
    lease._write(tmp_path, other)
    began = time.monotonic()
    with exclusive(tmp_path):
        assert time.monotonic() - began >= lease.STALE
        assert [path.name for path in (tmp_path / LEASES).iterdir()] != [other.name]


@pytest.mark.parametrize("kind", ["lease"], indirect=True)
def test_a_lease_of_another_machine_that_is_renewed_refuses(kind: str, tmp_path: Path) -> None:
    other = lease._Lease("0-other.json", "elsewhere", 1, "raysubmit_1", 7, held=True)
    lease._write(tmp_path, other)
    stopped = threading.Event()
    thread = threading.Thread(target=lease._renew, args=(tmp_path, other, stopped))
    thread.start()
    try:
        with pytest.raises(UserError, match="elsewhere, job raysubmit_1"), exclusive(tmp_path):
            pytest.fail("two programs in one folder")
    finally:
        stopped.set()
        thread.join()
    assert [path.name for path in (tmp_path / LEASES).iterdir()] == [other.name]  # ours is withdrawn


@pytest.mark.parametrize("kind", ["lease"], indirect=True)
def test_of_many_that_come_together_one_stays(kind: str, tmp_path: Path) -> None:
    inside, most, refused = 0, 0, 0
    guard = threading.Lock()

    def start() -> None:
        nonlocal inside, most, refused
        try:
            with exclusive(tmp_path):
                with guard:
                    inside += 1
                    most = max(most, inside)
                time.sleep(4.0)  # longer than anybody looks
                with guard:
                    inside -= 1
        except UserError:
            with guard:
                refused += 1

    threads = [threading.Thread(target=start) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, refused) == (1, 4)


@pytest.mark.parametrize("kind", ["lock"], indirect=True)
def test_a_start_that_failed_at_once_leaves_no_folder(kind: str, tmp_path: Path) -> None:
    with exclusive(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()
    with exclusive(tmp_path / "run"):
        (tmp_path / "run" / "output").touch()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".lock", "output"]


@pytest.mark.parametrize("kind", ["lease"], indirect=True)
def test_a_start_under_a_lease_that_leaves_nothing_leaves_no_folder(kind: str, tmp_path: Path) -> None:
    with exclusive(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()
    with exclusive(tmp_path / "run"):
        (tmp_path / "run" / "output").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["output"]


@pytest.mark.parametrize("kind", ["lock", "lease"], indirect=True)
def test_a_start_that_failed_at_once_leaves_no_folder_above_it_either(kind: str, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(KeyError), exclusive(tmp_path / "mine" / "runs" / "name"):
        raise KeyError
    assert [each.name for each in tmp_path.rglob("*")] == ["mine"]
    with exclusive(tmp_path / "mine" / "runs" / "name"):
        (tmp_path / "mine" / "runs" / "of somebody else").touch()
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["mine", "of somebody else", "runs"]


def test_a_folder_above_that_somebody_removes_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir, removed = os.mkdir, []

    def removing(path: Any, *arguments: Any, **options: Any) -> None:
        if Path(path).name == "name" and not removed and Path(path).parent.exists():
            removed.append(Path(path).parent.rmdir())
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(os, "mkdir", removing)
    with exclusive(tmp_path / "runs" / "name"):
        assert removed
        assert (tmp_path / "runs" / "name").is_dir()


@pytest.mark.parametrize("kind", ["lock"], indirect=True)
def test_a_lock_that_is_deleted_meanwhile_lets_nobody_else_in(kind: str, tmp_path: Path) -> None:
    """The last holder deletes the file of an empty folder; whoever has opened it before must notice."""
    inside, most, entered = 0, 0, 0
    guard = threading.Lock()

    def start() -> None:
        nonlocal inside, most, entered
        for _ in range(300):
            try:
                with exclusive(tmp_path / "run"):
                    with guard:
                        inside, entered = inside + 1, entered + 1
                        most = max(most, inside)
                    with guard:
                        inside -= 1
            except UserError:
                pass

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert entered > 100


def test_a_damaged_lease_is_nobodys(kind: str, tmp_path: Path) -> None:
    (tmp_path / LEASES).mkdir()
    (tmp_path / LEASES / "0.json").write_text("{")
    (tmp_path / LEASES / "1.json").write_text(json.dumps({"host": 3}))
    with exclusive(tmp_path):
        pass


def test_network_mounts_and_stores_need_a_lease(tmp_path: Path) -> None:
    assert needs_lease("s3://bucket/run")
    assert not needs_lease(tmp_path)
    assert not needs_lease(tmp_path / "not" / "there")
