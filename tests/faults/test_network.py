"""Faults that cross a network: machines are network namespaces with addresses of their own, and cables.

Skipped in one line where the kernel allows no namespaces. All are of the long set (``make soak``).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipelines import KEEPALIVE
from tests.faults.conftest import PROGRAMS, Program

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(900)]
COUNT = itertools.count()
PORT = 6391
HEAD = "10.213.7.1"
# A machine that does not answer is given up after about 10 s instead of 30 s, so that the tests are quicker.
QUICK = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    **KEEPALIVE,
}


def _ip(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True)


class Machines:
    """A head without CPUs where the programs run, and two machines of one CPU each at a switch."""

    def __init__(self) -> None:
        # New names for each test: the kernel takes down a network when its last process is gone, not at once.
        self._tag = f"sf{os.getpid() % 10_000}{next(COUNT)}"
        self._names = [f"{self._tag}n{number}" for number in range(3)]
        self.address = f"{HEAD}:{PORT}"

    def connect(self) -> str:
        """Make the namespaces and the cables; returns why that is not possible, or nothing."""
        bridge = f"{self._tag}b"
        commands = [f"link add {bridge} type bridge", f"link set {bridge} up"]
        for number, name in enumerate(self._names):
            inside, outside = f"{self._tag}i{number}", f"{self._tag}o{number}"
            commands += [
                f"netns add {name}",
                f"link add {inside} type veth peer name {outside}",
                f"link set {inside} netns {name}",
                f"link set {outside} master {bridge}",
                f"link set {outside} up",
                f"-n {name} address add 10.213.7.{number + 1}/24 dev {inside}",
                f"-n {name} link set {inside} up",
                f"-n {name} link set lo up",
            ]
        for command in commands:
            done = _ip(*command.split())
            if done.returncode != 0:
                return done.stderr.strip()
        return ""

    def start(self) -> None:
        """Start Ray on all machines."""
        common = ["--disable-usage-stats", "--object-store-memory", str(150 * 2**20)]
        head = ["--head", "--port", str(PORT), "--num-cpus", "0", "--include-dashboard", "false"]
        self._ray(0, HEAD, [*head, *common])
        for number in (1, 2):
            address = ["--address", self.address, "--num-cpus", "1"]
            self._ray(number, f"10.213.7.{number + 1}", [*address, *common])

    def _ray(self, number: int, ip: str, arguments: list[str]) -> None:
        command = [*self.on(number), sys.executable, "-m", "ray.scripts.scripts", "start", *arguments]
        command += ["--node-ip-address", ip, "--temp-dir", f"/tmp/{self._tag}-{number}"]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        environment |= {"RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "200", **QUICK}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr

    def on(self, number: int) -> list[str]:
        """The beginning of a command that runs on a machine."""
        return ["ip", "netns", "exec", self._names[number]]

    def cable(self, number: int, state: str) -> None:
        """``up``, or ``down``: the machine lives on, and nobody reaches it."""
        assert _ip("link", "set", f"{self._tag}o{number}", state).returncode == 0

    def interrupt(self, number: int, seconds: float) -> None:
        """Pull the cable, and put it in again after a while."""
        self.cable(number, "down")
        time.sleep(seconds)
        self.cable(number, "up")

    def close(self) -> None:
        """End all processes of the machines, and the network."""
        for number, name in enumerate(self._names):
            pids = _ip("netns", "pids", name).stdout.split()
            if pids:
                subprocess.run(["kill", "-9", *pids], capture_output=True)
            _ip("netns", "delete", name)
            shutil.rmtree(f"/tmp/{self._tag}-{number}", ignore_errors=True)
        _ip("link", "delete", f"{self._tag}b")


@pytest.fixture
def machines() -> Iterator[Machines]:
    if shutil.which("ip") is None:
        pytest.skip("no ip (iproute2) here")
    made = Machines()
    with contextlib.ExitStack() as stack:
        stack.callback(made.close)
        reason = made.connect()
        if reason:
            pytest.skip(f"this machine allows no network namespaces ({reason})")
        made.start()
        yield made


@pytest.fixture
def ends_like_an_undisturbed_run(
    program: Callable[..., Program],
    machines: Machines,
    outcome: Callable[[Program], Any],
    undisturbed: Callable[[str], Any],
) -> Callable[[str, Callable[[], None]], None]:
    """``(name, fault)``: the program meets the fault halfway, and its outcome is that of a calm run."""

    def check(name: str, fault: Callable[[], None]) -> None:
        run = program(name, "disturbed", machines.address)
        process = run.start(prefix=machines.on(0), **QUICK)
        run.until_halfway(process)
        fault()
        assert run.end(process) == 0, run.tail()
        assert outcome(run) == undisturbed(name)

    return check


Check = Callable[[str, Callable[[], None]], None]


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_machine_that_nobody_reaches_any_more(
    name: str, machines: Machines, ends_like_an_undisturbed_run: Check
) -> None:
    """Its cable is pulled; it continues for nobody. The other machine does its part again."""
    ends_like_an_undisturbed_run(name, lambda: machines.cable(1, "down"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_short_interruption_costs_nothing(
    name: str, machines: Machines, ends_like_an_undisturbed_run: Check
) -> None:
    """Two seconds without the cable: shorter than a machine is waited for."""
    ends_like_an_undisturbed_run(name, lambda: machines.interrupt(1, 2.0))


@pytest.mark.parametrize("name", ["preprocess", "evaluate"])
def test_a_machine_that_comes_back_too_late_does_no_harm(
    name: str, machines: Machines, ends_like_an_undisturbed_run: Check
) -> None:
    """A partition: the cluster has given the machine up, and what it wrote meanwhile is not counted twice."""
    ends_like_an_undisturbed_run(name, lambda: machines.interrupt(1, 20.0))
