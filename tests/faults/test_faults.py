"""The table of faults of docs/reliability.md, with real processes: outcomes equal those of undisturbed runs.

A short set runs always; the rest has the marker ``soak`` (``make soak``).
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from safa.files import join, location
from tests.conftest import _uri
from tests.failing_store import STALL, failing_store
from tests.faults.conftest import PROGRAMS, Program, Raylets

soak = pytest.mark.soak
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]
SHORT_SET = [
    pytest.param("preprocess"),
    pytest.param("train", marks=soak),
    pytest.param("evaluate", marks=soak),
]
WORKERS = re.compile(r"ray::(RayTrainWorker|MapWorker|.*[Mm]ap)")


@pytest.mark.parametrize(
    "replaced", [pytest.param(True, marks=soak), False], ids=["replaced", "not replaced"]
)
@pytest.mark.parametrize("name", SHORT_SET)
def test_a_lost_node(
    name: str,
    replaced: bool,
    program: Callable[..., Program],
    raylets: Callable[..., Raylets],
    undisturbed: Callable[[str], Any],
    outcome: Callable[[Program], Any],
) -> None:
    cluster = raylets(2)
    disturbed = program(name, "disturbed", cluster.address)
    process = disturbed.start()
    disturbed.until_halfway(process)
    cluster.lose(0, replaced=replaced)
    assert disturbed.end(process) == 0, disturbed.tail()
    nodes = json.loads((disturbed.folder / "manifest.json").read_text())["nodes"]
    assert len(nodes) == 3 + replaced, "the head, and all that took part, the lost one, too"
    assert outcome(disturbed) == undisturbed(name)


@soak
def test_training_continues_with_fewer_workers(
    program: Callable[..., Program], raylets: Callable[..., Raylets]
) -> None:
    cluster = raylets(2)
    scale = {"num_workers": 2, "min_workers": 1, "cpus_per_worker": 1, "max_failures": 3}
    schedule = {"unit": "steps", "length": 60}  # each line of the log waits for all workers
    run = program("train", "elastic", cluster.address, scale=scale, schedule=schedule, log_every=20)
    process = run.start()
    run.until_halfway(process)
    cluster.lose(replaced=False)
    assert run.end(process) == 0, run.tail()
    assert (run.folder / "model").is_dir()
    assert "resuming from" in run.log.read_text()


@soak
def test_sigterm_while_the_workers_wait_for_a_machine(
    program: Callable[..., Program], raylets: Callable[..., Raylets]
) -> None:
    cluster = raylets(1)
    run = program("train", "waiting", cluster.address)
    process = run.start()
    run.until_halfway(process)
    cluster.lose(replaced=False)
    time.sleep(15)  # until Ray Train has seen it, and waits for another machine
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert run.end(process) == 128 + signal.SIGTERM, run.tail()
    assert time.monotonic() - began < 60
    assert "stopped while the workers were started again; the newest state stays" in run.log.read_text()


@soak
def test_a_notice_of_preemption_saves_the_step_at_hand(
    program: Callable[..., Program], raylets: Callable[..., Raylets]
) -> None:
    cluster = raylets(2)
    length = {"unit": "steps", "length": 10_000}
    never = {"every": 10_000}
    run = program("train", "drained", cluster.address, schedule=length, checkpoint=never, log_every=5)
    process = run.start()
    until(lambda: "step 10/" in run.log.read_text(), process, run)
    cluster.drain_the_worker(WORKERS)
    until(lambda: "machines will be taken away" in run.log.read_text(), process, run)
    until(lambda: any(run.folder.glob("checkpoints/step-*")), process, run)
    process.send_signal(signal.SIGTERM)
    assert run.end(process) == 128 + signal.SIGTERM, run.tail()


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes], run: Program) -> None:
    """Wait for a condition while the program runs."""
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, run.tail()
        assert time.monotonic() < deadline, run.tail()
        time.sleep(0.1)


@soak
@pytest.mark.parametrize("name", ["preprocess", "evaluate"])
def test_a_notice_of_preemption_and_the_end_of_the_machine_cost_nothing(
    name: str,
    program: Callable[..., Program],
    raylets: Callable[..., Raylets],
    undisturbed: Callable[[str], Any],
    outcome: Callable[[Program], Any],
) -> None:
    cluster = raylets(2)
    disturbed = program(name, "disturbed", cluster.address)
    process = disturbed.start()
    disturbed.until_halfway(process)
    cluster.lose(cluster.drain_the_worker(WORKERS), replaced=False)
    assert disturbed.end(process) == 0, disturbed.tail()
    assert outcome(disturbed) == undisturbed(name)


@soak
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_worker_killed_once(
    name: str,
    program: Callable[..., Program],
    raylets: Callable[..., Raylets],
    undisturbed: Callable[[str], Any],
    outcome: Callable[[Program], Any],
) -> None:
    cluster = raylets(2)
    disturbed = program(name, "disturbed", cluster.address)
    process = disturbed.start()
    disturbed.until_halfway(process)
    until(lambda: cluster.kill_a_worker(WORKERS), process, disturbed)
    assert disturbed.end(process) == 0, disturbed.tail()
    assert not re.search(r"TrainController pid=.*Traceback", disturbed.log.read_text()), disturbed.tail()
    assert outcome(disturbed) == undisturbed(name)


@soak
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_driver_ends_and_is_started_again(
    name: str,
    number: signal.Signals,
    program: Callable[..., Program],
    raylets: Callable[..., Raylets],
    undisturbed: Callable[[str], Any],
    outcome: Callable[[Program], Any],
) -> None:
    cluster = raylets(2)
    disturbed = program(name, "disturbed", cluster.address)
    process = disturbed.start()
    disturbed.until_halfway(process)
    process.send_signal(number)
    assert disturbed.end(process) != 0
    if number == signal.SIGTERM and name == "train":
        assert process.returncode == 143
    assert disturbed.run() == 0, disturbed.tail()
    assert outcome(disturbed) == undisturbed(name)


@soak
@pytest.mark.parametrize("name", ["preprocess", "evaluate"])
def test_little_memory_for_objects(
    name: str,
    program: Callable[..., Program],
    raylets: Callable[..., Raylets],
    undisturbed: Callable[[str], Any],
    outcome: Callable[[Program], Any],
) -> None:
    """The least that Ray takes: it spills to the disk."""
    cluster = raylets(1, object_store_memory=76 * 2**20)
    cramped = program(name, "cramped", cluster.address)
    assert cramped.run() == 0, cramped.tail()
    assert outcome(cramped) == undisturbed(name)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """``small_disk(options)``: a file system of its own at ``tmp_path / disk``."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True, text=True
        )
        if done.returncode != 0:
            pytest.skip(f"this machine allows no mounts ({done.stderr.strip()})")
        return folder

    yield mount
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True)


@soak
@pytest.mark.parametrize("options", ["size=16k", "ro"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_storage_that_is_full_or_read_only_is_one_line(
    name: str, options: str, program: Callable[..., Program], small_disk: Callable[[str], Path]
) -> None:
    small_disk(options)
    run = program(name, "disk/out")
    run.log = run.folder.parents[1] / "run.log"
    run.folder = run.folder.parents[1] / "out"  # its config and log lie outside, where there is room
    assert run.run() == 2, run.tail()
    assert len(run.errors()) == 1, run.tail()
    assert "\nTraceback" not in run.log.read_text()


@soak
@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_store_of_which_each_fifth_request_fails(
    name: str,
    status: int,
    program: Callable[..., Program],
    undisturbed: Callable[[str], Any],
    outcome: Callable[[Program], Any],
    s3_server: str,
) -> None:
    with failing_store(s3_server, status, lambda number: number % 5 == 0) as store:
        run = program(name, "disturbed")
        uri = _uri(store.address, f"test/fifth-{status}-{name}")
        run.settings["runs" if name == "train" else "out"] = uri
        assert run.run() == 0, run.tail()
        assert store.faults > 10
        run.folder = join(location(uri), "disturbed") if name == "train" else location(uri)
        disturbed = outcome(run)
    assert disturbed == undisturbed(name)


@soak
@pytest.mark.parametrize(("status", "reason"), [(503, "status 503"), (STALL, "Timeout was reached")])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_store_that_always_fails_is_one_line(
    name: str, status: int, reason: str, program: Callable[..., Program], s3_server: str
) -> None:
    with failing_store(s3_server, status) as store:
        run = program(name)
        run.settings["runs" if name == "train" else "out"] = _uri(store.address, "test/dead")
        assert run.run() == 2, run.tail()
    assert len(run.errors()) == 1, run.tail()
    assert reason in run.errors()[0]
    assert "\nTraceback" not in run.log.read_text()


@soak
@pytest.mark.parametrize("kind", ["results", "frames"])
def test_a_damaged_result_of_an_evaluation_is_made_again(
    kind: str, program: Callable[..., Program], outcome: Callable[[Program], Any]
) -> None:
    run = program("evaluate")
    assert run.run() == 0, run.tail()
    before = outcome(run)
    part = sorted((run.folder / kind).glob("*.parquet"))[0]
    os.truncate(part, part.stat().st_size // 2)
    (run.folder / "metrics.json").unlink()
    assert run.run() == 0, run.tail()
    assert "of the results is damaged (" in run.log.read_text()
    assert outcome(run) == before


@soak
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_machine_that_lacks_the_mount_is_refused_before_work(
    name: str, program: Callable[..., Program], raylets: Callable[..., Raylets]
) -> None:
    cluster = raylets(1)
    run = program(name, "shared/out", cluster.address)
    run.log = run.folder.parents[1] / "run.log"
    run.folder.parent.mkdir()
    cluster.add_without(run.folder.parent)
    run.folder = run.folder.parents[1] / "out"  # its config lies where all see it
    assert run.run() == 2, run.tail()
    assert len(run.errors()) == 1, run.tail()
    assert "does not see" in run.errors()[0]
    left = {path.name for path in (run.folder.parent / "shared").rglob("*") if path.is_file()}
    assert left <= {".lock", "settings.hash", "config.yaml"}  # what was asked for, and nothing that was made


@soak
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_relative_output_in_a_job_is_refused_before_work(
    name: str, program: Callable[..., Program]
) -> None:
    run = program(name)
    run.settings["runs" if name == "train" else "out"] = "out"
    job = '{"metadata": {"job_submission_id": "raysubmit_1"}}'
    assert run.run(RAY_JOB_CONFIG_JSON_ENV_VAR=job) == 2, run.tail()
    assert len(run.errors()) == 1
    assert "is relative, and a job works in a folder that Ray deletes" in run.errors()[0]


@soak
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_second_start_is_refused(
    name: str, program: Callable[..., Program], outcome: Callable[[Program], Any]
) -> None:
    run = program(name)
    process = run.start()
    run.until_halfway(process)
    second = program(name)
    second.log = second.log.with_name("second.log")
    assert second.run() == 2, second.tail()
    assert len(second.errors()) == 1
    assert f"another program is at work here (process {process.pid})" in second.errors()[0]
    assert run.end(process) == 0, run.tail()
    outcome(run)


@pytest.mark.parametrize("name", SHORT_SET)
def test_the_address_of_a_dead_cluster_is_one_line_within_30_s(
    name: str, program: Callable[..., Program]
) -> None:
    run = program(name, address="127.0.0.1:1")
    began = time.monotonic()
    assert run.run() == 2, run.tail()
    assert time.monotonic() - began < 30 + 15  # and the time in which Python starts on a busy machine
    assert len(run.errors()) == 1
    assert "no Ray cluster answers" in run.errors()[0]


@soak
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_address_of_a_job_server_is_explained(name: str, program: Callable[..., Program]) -> None:
    run = program(name, address="http://127.0.0.1:8265")
    assert run.run() == 2, run.tail()
    assert len(run.errors()) == 1
    assert "is the address of a job server. RAY_ADDRESS is host:port of the head" in run.errors()[0]


# The Raylets have one CPU each and no GPU. Requests that this machine refuses: tests/pipeline.
TOO_MUCH: list[tuple[str, dict[str, Any]]] = [
    ("preprocess", {"stages": {"crop": {"cpus": 2}}}),
    ("train", {"scale": {"num_workers": 8, "cpus_per_worker": 1}}),
    ("train", {"scale": {"num_workers": 1, "use_gpu": True}}),
    ("evaluate", {"scale": {"actors": [4, 4]}}),
    ("evaluate", {"scale": {"gpus_per_actor": 1}}),
]


@soak
@pytest.mark.parametrize(("name", "changes"), TOO_MUCH)
def test_more_than_a_fixed_cluster_has_is_refused(
    name: str, changes: dict[str, Any], program: Callable[..., Program], raylets: Callable[..., Raylets]
) -> None:
    run = program(name, address=raylets(1).address, **changes)
    assert run.run() == 2, run.tail()
    assert re.search(r"asks for .* in the cluster", run.errors()[0])
