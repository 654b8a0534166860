"""Lines of Ray's C++ parts and of its cleaner stay out of the terminal; all others arrive whole, in order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.console import FROM_RAYS_CORE

ROOT = Path(__file__).parents[3]
CORE = "[2026-11-26 11:55:13,740 E 31247 31247] core_worker.cc:2465: Actor with class name: 'MapWorker'"
FROM_ACTOR = f"\033[36m(TrainController pid=1411)\033[0m {CORE}"
CLEANER = (
    "\033[36m(PlacementGroupCleaner pid=7)\033[0m Failed to query Ray Train Controller actor state. "
    "State API may be temporarily unavailable. Continuing to monitor."
)
SAID = "10:00:00 step 2/2  (PlacementGroupCleaner pid=7)"
OF_A_WORKER = f"\033[36m(RayTrainWorker pid=8)\033[0m {SAID}"
FROM_ELSEWHERE = f"(RayTrainWorker pid=8, ip=10.0.0.2) {SAID}"
OF_ANOTHER = "(MapWorker pid=8) Traceback"
FATAL = "[2026-11-26 11:55:13,740 C 31247 31247] raylet.cc:10: An unexpected system state"
PROGRAM = """
import os, subprocess, sys
from pipelines.console import without_rays_housekeeping
core, *lines = sys.argv[1:]
with without_rays_housekeeping():
    for line in lines:
        sys.stderr.write(line + "\\n")
    sys.stderr.flush()
    os.write(2, b"from C: " + b"x" * 200_000 + b"\\n")
    subprocess.run(["sh", "-c", 'printf "%s\\nchild\\n" "$0" >&2', core])
    sys.stderr.write("no newline")
sys.stderr.write(core + "\\n")
"""


def test_only_rays_housekeeping_is_left_out() -> None:
    command = [sys.executable, "-c", PROGRAM, CORE, CORE, "10:00:00 step 1/2", FROM_ACTOR, FATAL]
    command += [CLEANER, CLEANER + " [repeated 3x across cluster]", OF_A_WORKER]
    command += [OF_A_WORKER.replace("\033[36m", "").replace("\033[0m", ""), FROM_ELSEWHERE, OF_ANOTHER]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    lines = ("10:00:00 step 1/2", FATAL, SAID, SAID, FROM_ELSEWHERE, OF_ANOTHER)
    lines += (f"from C: {'x' * 200_000}", "child")
    expected = "".join(f"{line}\n" for line in lines) + f"no newline{CORE}\n"
    assert done.stderr == expected


def test_a_log_that_is_kept_in_a_file_has_no_colours() -> None:
    """Ray reads the variable as it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_COLOR_PREFIX"}
    program = "import os, pipelines; print(os.environ['RAY_COLOR_PREFIX'])"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout == "0\n"


@pytest.mark.ray
def test_the_pattern_is_that_of_rays_own_log() -> None:
    """A real line of the installed Ray, from a process that writes its log to standard error."""
    code = "import ray; ray.init('local', num_cpus=1, include_dashboard=False); ray.shutdown()"
    environment = os.environ | {"RAY_LOG_TO_STDERR": "1", "RAY_BACKEND_LOG_LEVEL": "info"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert any(FROM_RAYS_CORE.search(line) for line in done.stderr.splitlines()), done.stderr[-2000:]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.soak  # another Ray may have another prefix; nothing of ours changes it
def test_the_prefix_is_that_of_the_real_cleaner() -> None:
    """A warning of Ray Train's own actor, which Ray brings from the worker's log to the driver."""
    program = """
import sys, time, ray
from pipelines.console import without_rays_housekeeping
from ray.train.v2._internal.execution.controller.placement_group_cleaner import PlacementGroupCleaner
class Other:
    def speak(self):
        sys.stderr.write("heard\\n")
ray.init("local", num_cpus=1, include_dashboard=False, logging_level="ERROR")
cleaner = ray.remote(num_cpus=0)(PlacementGroupCleaner).remote("f" * 32, 0.2, 1.0, 1.0)
other = ray.remote(num_cpus=0)(Other).remote()
with without_rays_housekeeping():
    ray.get([cleaner._is_placement_group_removed.remote("x"), other.speak.remote()])
    time.sleep(2)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert "heard" in done.stderr
    assert "PlacementGroupCleaner" not in done.stderr
