"""What the demo says at its end: where the report is, and commands that work as they stand."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pipelines.demo import summary
from safa.config import load_settings
from safa.config.demo import DemoConfig
from safa.messages import INSTALL_APP

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("is_there", [True, False])
def test_the_page_is_installed_before_it_is_started(is_there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if is_there else None)
    config = load_settings(ROOT / "configs" / "smoke" / "demo.yaml", DemoConfig, ["run=runs/x"])
    lines = summary({"counts": {"in": 1, "ok": 1, "quarantined": 0}}, {}, config).splitlines()
    (start,) = [number for number, line in enumerate(lines) if "safa app --checkpoint runs/x" in line]
    assert any(INSTALL_APP in line for line in lines[:start]) != is_there
    assert any("-o out.mp4 --size 256 --checkpoint runs/x" in line for line in lines)
    assert any(line.startswith("report: ") and line.endswith("index.html") for line in lines)


def test_in_a_job_it_names_what_is_to_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.demo.job_id", lambda: "raysubmit_1")
    run = "/mnt/shared/x"
    config = load_settings(ROOT / "configs" / "smoke" / "demo.yaml", DemoConfig, [f"run={run}"])
    lines = summary({"counts": {"in": 1, "ok": 1, "quarantined": 0}}, {}, config).splitlines()
    assert lines[-3:] == [f"report: {run}/report/index.html", "", f"model: {run}/train/model"]
