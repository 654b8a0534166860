"""The graph with a stage of its own for the GPU: it fits every machine, and stores the same as ever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import preprocess
from safa.data.video import write_video
from tests.pipeline.graph_on_machine import Runner, make_config

ROOT = Path(__file__).parents[2]
CLIPS = 12
ENDS_WITHIN = 240  # seconds, beside other work; the graph gives up after 60 without progress

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crops")
    for number in range(CLIPS):
        shades = (np.full((32, 32, 3), 10 * number + n, np.uint8) for n in range(16))
        write_video(folder / f"clip{number:02d}.mp4", shades, 25.0)
    return folder


def _on_machine(cpus: int, gpus: int, crops: Path, out: Path) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).with_name("graph_on_machine.py"))]
    done = subprocess.run(
        [*command, str(cpus), str(gpus), str(crops), str(out)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=ENDS_WITHIN,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("cpus", [1, *(pytest.param(cpus, marks=pytest.mark.soak) for cpus in (2, 4))])
def test_it_fits_the_machine_and_stores_what_one_process_stores(
    cpus: int,
    crops: Path,
    tmp_path: Path,
    stored_rows: Callable[[Path], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    apart = _on_machine(cpus, 1, crops, tmp_path / "apart")
    assert apart["counts"] == {"in": CLIPS, "ok": CLIPS, "quarantined": 0, "pending": 0}
    assert apart["operators"] == [["crop"], ["landmarks"], ["write"]]
    monkeypatch.setattr(preprocess, "StageRunner", Runner)
    monkeypatch.setattr(preprocess, "check_detector", lambda config: None)
    together = make_config(crops, tmp_path / "together", gpus=0)
    assert [operator.stages for operator in preprocess.operators(together)] == [
        ("crop", "landmarks", "write")
    ]
    preprocess.preprocess(together)
    assert stored_rows(tmp_path / "apart") == stored_rows(tmp_path / "together")
