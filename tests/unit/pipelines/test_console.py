"""Lines of Ray's C++ parts stay out of the terminal; all others arrive whole and in order."""

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
FATAL = "[2026-11-26 11:55:13,740 C 31247 31247] raylet.cc:10: An unexpected system state"
PROGRAM = """
import os, subprocess, sys
from pipelines.console import without_lines_of_rays_core
core, *lines = sys.argv[1:]
with without_lines_of_rays_core():
    for line in lines:
        sys.stderr.write(line + "\\n")
    sys.stderr.flush()
    os.write(2, b"from C: " + b"x" * 200_000 + b"\\n")
    subprocess.run(["sh", "-c", 'printf "%s\\nchild\\n" "$0" >&2', core])
    sys.stderr.write("no newline")
sys.stderr.write(core + "\\n")
"""


def test_only_lines_of_rays_core_are_left_out() -> None:
    command = [sys.executable, "-c", PROGRAM, CORE, CORE, "10:00:00 step 1/2", FROM_ACTOR, FATAL]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    expected = f"10:00:00 step 1/2\n{FATAL}\nfrom C: {'x' * 200_000}\nchild\nno newline{CORE}\n"
    assert done.stderr == expected


@pytest.mark.ray
def test_the_pattern_is_that_of_rays_own_log() -> None:
    """A real line of the installed Ray, from a process that writes its log to standard error."""
    code = "import ray; ray.init('local', num_cpus=1, include_dashboard=False); ray.shutdown()"
    environment = os.environ | {"RAY_LOG_TO_STDERR": "1", "RAY_BACKEND_LOG_LEVEL": "info"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert any(FROM_RAYS_CORE.search(line) for line in done.stderr.splitlines()), done.stderr[-2000:]
