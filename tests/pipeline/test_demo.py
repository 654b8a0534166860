"""The smoke demo as its user meets it: killed, interrupted, started again, finished."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEP_WITHIN = 200  # seconds, on a busy machine
STEPS = 20  # of the last stage: more than are taken while it looks for a request to stop

# The demo as a job (test_ray_job.py) and the chain in a store are the short siblings that always run.
pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.soak, pytest.mark.timeout(1200)]


class Demo:
    """Starts of the demo into one run folder; their lines are kept."""

    def __init__(self, run: Path) -> None:
        self.run = run

    def start(self) -> subprocess.Popen[bytes]:
        self.log = self.run.with_suffix(f".{time.monotonic_ns()}.log")
        command = [sys.executable, "-m", "pipelines.demo", "--config", "configs/smoke/demo.yaml"]
        # A cluster of its own: the tests' one would outlive the kill.
        environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
        with self.log.open("wb") as file:
            return subprocess.Popen(
                [*command, "--set", f"run={self.run}", "--set", f"train.schedule.length={STEPS}"],
                cwd=ROOT,
                env=environment | {"OMP_NUM_THREADS": "1"},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def lines(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + STEP_WITHIN
        while text not in self.lines():
            assert process.poll() is None, self.lines()[-4000:]
            assert time.monotonic() < deadline, self.lines()[-4000:]
            time.sleep(0.1)

    def finished(self) -> dict[str, bool]:
        records = json.loads((self.run / "stages.json").read_text())
        return {name: record["done"] for name, record in records.items()}


def test_killed_interrupted_and_started_again(tmp_path: Path) -> None:
    demo = Demo(tmp_path / "run")

    killed = demo.start()
    demo.wait_for("preprocess: 4 clips, 4 still to do", killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert demo.finished()["synthetic"]
    videos = {path: path.stat().st_mtime_ns for path in (demo.run / "videos").rglob("*.mp4")}

    interrupted = demo.start()
    demo.wait_for(f"step 2/{STEPS}", interrupted)
    os.kill(interrupted.pid, signal.SIGINT)
    assert interrupted.wait(STEP_WITHIN) == 130
    assert "; run the same command again to resume" in demo.lines()
    assert "\nTraceback" not in demo.lines()  # of this process: Ray's actors, in their words, may complain
    assert "stage 1/5: synthetic: already finished" in demo.lines()
    assert [demo.finished()[name] for name in ("preprocess", "pretrain", "train")] == [True, True, False]

    last = demo.start()
    assert last.wait(3 * STEP_WITHIN) == 0, demo.lines()[-4000:]
    for stage in ("1/5: synthetic", "2/5: preprocess", "3/5: pretrain"):
        assert f"stage {stage}: already finished" in demo.lines()
    assert videos == {path: path.stat().st_mtime_ns for path in videos}
    numbers = json.loads((demo.run / "report" / "metrics.json").read_text())
    assert numbers["counts"] == {"in": 4, "ok": 4, "quarantined": 0}
    assert list(numbers["seconds"]) == ["synthetic", "preprocess", "pretrain", "train", "evaluate"]
    assert f"report: {demo.run / 'report' / 'index.html'}" in demo.lines()
    assert "\x1b" not in demo.lines()  # no colours in a file
    assert (demo.run / "report" / "index.html").stat().st_size > 10_000
