"""What `make pythons` runs on Pythons without torch and Ray imports neither."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
WITHOUT = """
import sys
sys.modules |= dict.fromkeys(("torch", "ray", "gradio", "grpc"))
import pytest
sys.exit(pytest.main(["--noconftest", "--collect-only", "-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


def test_the_tests_that_need_no_torch_need_none() -> None:
    show = ["make", "--no-print-directory", "--eval", "show: ; @echo $(NEED_NO_TORCH)", "show"]
    listed = subprocess.run(show, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    assert len(listed) > 10
    command = [sys.executable, "-c", WITHOUT, *listed]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
