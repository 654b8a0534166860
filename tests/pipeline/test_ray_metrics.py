"""What Prometheus reads from a real Ray has the names that the dashboard asks for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "safa.json"
PROGRAM = """
import sys, time
from urllib.request import urlopen

import ray
from pipelines import ray_metrics

ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
ray.data.DataContext.get_current().enable_progress_bars = False

class Worker:
    def __call__(self, row):
        ray_metrics.clip_finished("preprocess", "", 5)
        ray_metrics.clip_finished("preprocess", "no_face")
        ray_metrics.stage_state("evaluate", "model", 0.9, 4)
        ray_metrics.training_row("run", 1, {"step": 3, "steps_per_second": 4.0, "data_share": 0.5,
                                            "checkpoint_seconds": 2.0})
        time.sleep(0.3)
        return row

one = ray.data.ActorPoolStrategy(size=1)
rows = ray.data.range(24, override_num_blocks=12).map(Worker, compute=one, num_cpus=1)
port = ray.nodes()[0]["MetricsExportPort"]
text, wanted, until = "", sys.argv[1:], time.monotonic() + 60
iterator = iter(rows.iter_rows())
while time.monotonic() < until and not all(name in text for name in wanted):
    next(iterator, None)
    time.sleep(0.5)
    text = urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
print(text)
"""

pytestmark = [pytest.mark.ray]


def _asked_for() -> set[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    return {name for query in queries for name in re.findall(r"\bray_\w+", query)}


def test_the_dashboard_draws_what_ray_offers() -> None:
    names = _asked_for()
    assert len(names) > 8
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    offered = set(re.findall(r"^(ray_\w+?)\{", done.stdout, re.MULTILINE))
    assert names <= offered, f"{names - offered}\n{done.stderr[-2000:]}"
    assert re.search(r'ray_safa_clips_total\{.*outcome="no_face".*stage="preprocess"', done.stdout)
    assert re.search(r'ray_safa_stage_waiting\{.*part="model".*stage="evaluate".*\} 4', done.stdout)
    assert re.search(r'ray_safa_train_step_seconds\{.*rank="1".*\} 0\.25', done.stdout)
