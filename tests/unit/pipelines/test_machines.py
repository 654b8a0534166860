"""What Ray would wait for in silence is refused, or said, in one line."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private import services

from pipelines import machines
from pipelines.growth import Growth
from pipelines.machines import Need, check_address, cluster_address, free_port, local_options, room_for
from safa.errors import UserError

ROOT = Path(__file__).parents[3]
FIX = "Lower it."


def _need(workers: int = 1, **each: float) -> Need:
    return Need("training", each, "scale", FIX, workers)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A machine of 2 CPUs (``nodes``), and what the cluster can grow to (``growth``)."""
    here: dict[str, Any] = {"nodes": [{"CPU": 2.0}], "growth": None}
    monkeypatch.setattr(
        ray, "nodes", lambda: [{"Alive": True, "Resources": resources} for resources in here["nodes"]]
    )
    monkeypatch.setattr(machines, "growth", lambda: here["growth"])
    monkeypatch.setattr(machines, "LOOK_EVERY", 0.01)
    return here


def test_gpus_that_a_cluster_without_any_may_start(cluster: dict[str, Any]) -> None:
    """Those of one machine: more would cost what nobody asked for."""
    assert machines.gpus_to_come() == 0
    cluster["growth"] = Growth(((8, {"CPU": 96.0, "GPU": 8.0}), (4, {"GPU": 1.0}), (0, {"GPU": 16.0})))
    assert machines.gpus_to_come() == 8
    cluster["nodes"] = [{"CPU": 8.0, "GPU": 1.0}]
    assert machines.gpus_to_come() == 0
    cluster |= {"nodes": [], "growth": Growth()}
    assert machines.gpus_to_come() == 0, "nobody says"


# ---- the cluster at an address -----------------------------------------------------------------------------


def test_without_an_address_ray_starts_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", "local"):
        monkeypatch.setenv("RAY_ADDRESS", value)
        assert cluster_address() == "local"
    monkeypatch.delenv("RAY_ADDRESS")
    assert cluster_address() == "local"


def test_auto_is_the_cluster_that_last_began_here_even_a_dead_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray itself would try for minutes; its address is checked like any other."""
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(services, "find_gcs_addresses", set)
    monkeypatch.setattr(services, "find_bootstrap_address", lambda folder: "127.0.0.1:1")
    assert cluster_address() == "127.0.0.1:1"
    monkeypatch.setattr(services, "find_bootstrap_address", lambda folder: None)
    with pytest.raises(UserError, match=r"^RAY_ADDRESS=auto: no Ray cluster runs on this machine\. Check"):
        cluster_address()


def test_a_port_where_something_else_listens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "ANSWERS_WITHIN", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(UserError, match=r"did not answer as Ray does\. Check RAY_ADDRESS"):
            check_address(address)


def test_the_limits_of_waiting_add_up_to_less_than_half_a_minute() -> None:
    assert machines.CONNECTS_WITHIN + machines.ANSWERS_WITHIN < 25


# ---- Ray on this machine -----------------------------------------------------------------------------------


def test_pythons_own_sockets_need_a_short_path_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", tempfile.gettempdir())
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 60)))
    with pytest.raises(UserError, match=r"TMPDIR=.*too long for Ray's sockets: .* Set TMPDIR to a short one"):
        machines.local_options()


def test_a_temporary_folder_with_too_long_a_path_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 60)))
    with pytest.raises(UserError, match=r"TMPDIR=.*too long for Ray's sockets: .* Set RAY_TMPDIR to a short"):
        local_options()
    assert list(tmp_path.iterdir()) == []


def test_the_longest_path_allowed_is_one_that_ray_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own check of a socket's path, on the longest name that it can give one."""
    from ray._private.utils import validate_socket_filepath

    room = machines.LONGEST_SOCKET - machines.SOCKET_BELOW
    validate_socket_filepath("/" + "x" * (room - 1) + "y" * machines.SOCKET_BELOW)
    with pytest.raises(OSError, match="AF_UNIX"):
        validate_socket_filepath("/" + "x" * room + "y" * machines.SOCKET_BELOW)


LOOK = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
sys.path.insert(0, sys.argv[1])
from pipelines.machines import local_options
print(local_options()["_temp_dir"])
"""


def test_the_folder_of_another_user_is_left_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can make a folder of another user")
    nobody = 65534
    readable = subprocess.run(["test", "-x", sys.executable], user=nobody, cwd="/")
    if readable.returncode != 0:
        pytest.skip("another user cannot run this Python")
    parent = Path("/tmp") / f"shared-{os.getpid()}"
    parent.mkdir(mode=0o777)
    parent.chmod(0o777)
    (parent / "ray").mkdir(mode=0o700)
    try:
        done = subprocess.run(
            [sys.executable, "-c", LOOK, str(ROOT)],
            user=nobody,
            env={"RAY_TMPDIR": str(parent), "PATH": os.environ["PATH"], "HOME": "/nonexistent"},
            capture_output=True,
            text=True,
            cwd="/",
        )
        assert done.stdout.strip() == str(parent / f"ray-{nobody}"), done.stderr
        assert f"{parent}/ray belongs to another user" in done.stderr
    finally:
        for folder in [*parent.iterdir(), parent]:
            folder.rmdir()


def test_the_dashboard_takes_a_port_that_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port


# ---- room for the work -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("need", "address", "message"),
    [
        (_need(8, CPU=1), "", "training asks for 8 CPUs, 2 are in this machine. Lower it."),
        (_need(8, CPU=1), "10.0.0.1:6379", "training asks for 8 CPUs, 2 are in the cluster. Lower it."),
        (_need(1, CPU=1, GPU=1), "", "training asks for 1 GPU, 0 are in this machine. Lower it."),
    ],
)
def test_more_than_a_fixed_cluster_has_is_refused(
    need: Need, address: str, message: str, cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address:
        monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError) as raised, room_for(need):
        pytest.fail("there is no room")
    assert str(raised.value) == f"scale: {message}"


def test_a_worker_must_fit_on_one_machine(cluster: dict[str, Any]) -> None:
    cluster["nodes"] = [{"CPU": 2.0}, {"CPU": 2.0}]
    with pytest.raises(UserError, match="1 x 3 CPUs of one machine, 0 are in"), room_for(_need(CPU=3)):
        pass
    with room_for(_need(2, CPU=2)):
        pass


def test_each_need_is_looked_at_by_itself(cluster: dict[str, Any]) -> None:
    with room_for(_need(CPU=2), _need(2, CPU=1)):
        pass
    with pytest.raises(UserError, match="asks for 1 GPU, 0 are in"), room_for(_need(CPU=2), _need(GPU=1)):
        pass


def test_fractions_that_fill_a_machine_have_room(cluster: dict[str, Any]) -> None:
    cluster["nodes"] = [{"CPU": 1.0}]
    for share, workers in ((0.1, 10), (0.3, 3), (0.7, 1)):  # 1 // 0.1 is 9
        with room_for(_need(workers, CPU=share)):
            pass


def test_a_cluster_that_grows_is_waited_for_and_the_log_says_so(
    cluster: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    cluster["growth"] = Growth(((2, {"CPU": 8.0}),))
    with caplog.at_level(logging.INFO), room_for(_need(8, CPU=1)):
        deadline = time.monotonic() + 5
        while "waiting for 8 CPUs, 2 are there" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        cluster["nodes"] = [{"CPU": 8.0}]
        while len(threading.enumerate()) > 1 and time.monotonic() < deadline:
            if not any("_say_what" in thread.name for thread in threading.enumerate()):
                break
            time.sleep(0.01)
    assert caplog.text.count("waiting for 8 CPUs, 2 are there") == 1
    with pytest.raises(UserError, match="asks for 32 CPUs, and the cluster grows to 16 at most"):
        room_for(_need(32, CPU=1)).__enter__()
    cluster["growth"] = Growth(((1, {"CPU": 8.0}), (4, {"CPU": 4.0})))
    with pytest.raises(UserError, match="asks for 2 x 6 CPUs of one machine, and the cluster grows to 1 at"):
        room_for(_need(2, CPU=6)).__enter__()


def test_a_cluster_of_which_nobody_says_how_far_it_grows_is_waited_for(cluster: dict[str, Any]) -> None:
    cluster |= {"growth": Growth(), "nodes": []}
    with room_for(_need(64, CPU=8, GPU=1)):
        pass
