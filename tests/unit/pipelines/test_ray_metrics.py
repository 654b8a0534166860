"""Grafana draws each number that the programs offer, and no other of theirs."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pipelines import ray_metrics

DASHBOARD = Path(__file__).parents[3] / "deploy" / "grafana" / "safa.json"


def test_the_dashboard_and_the_code_have_the_same_metrics() -> None:
    makers = (ray_metrics._clips, ray_metrics._frames, ray_metrics._busy, ray_metrics._waiting)
    metrics = [*(make() for make in makers), ray_metrics._step_seconds(), *ray_metrics._training().values()]
    offered = {f"ray_{metric.info['name']}" for metric in metrics}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert {name for query in queries for name in re.findall(r"\bray_safa_\w+", query)} == offered
    names = {name for metric in metrics for name in metric.info["tag_keys"]}
    grouped = {
        label
        for query in queries
        for each in re.findall(r"by \(([\w, ]+)\)", query)
        if "ray_safa" in query
        for label in each.split(", ")
    }
    assert grouped <= names
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
