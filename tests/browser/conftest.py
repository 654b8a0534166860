"""A browser, the accessibility rules of axe-core, and pages that a small model made. See ``make browser``.

Chromium comes from the system and axe-core from npm; without one of them these checks skip in a line. Their
files are not named ``test_*``, so that ``make test`` does not collect them.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from safa.config import parse_settings
from safa.config.inference import EvaluateConfig
from safa.data.clip_store import ClipStore
from safa.data.dataset_stats import DatasetStats, Sample, SplitCounts
from safa.errors import Failure, FailureCode
from safa.evaluation.jobs import EvaluationJob
from safa.evaluation.results import ClipResult
from safa.evaluation.window_stages import AllStages
from safa.inference.model_runner import ModelRunner
from safa.inference.swap_mask import HeadOutline
from safa.report.compare import read_run, write_comparison
from safa.report.content import ReportContent, TrainingRun, metrics_json, write_clips
from safa.report.dataset_page import write_page as write_dataset_page
from safa.report.page import write_page
from tests.contract.wires.world import World
from tests.evaluating import evaluate
from tests.unit.conftest import head_file, toy_head

__all__ = ["head_file", "toy_head"]

AXE_VERSION = "4.14.1"
MODES = ("reconstruction", "animation", "swap", "mesh")


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, from npm."""
    if shutil.which("npm") is None:
        pytest.skip("no npm, which fetches axe-core")
    folder = tmp_path_factory.mktemp("axe")
    command = ["npm", "install", "--silent", "--no-save", "--prefix", str(folder), f"axe-core@{AXE_VERSION}"]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip(f"npm cannot fetch axe-core {AXE_VERSION}: no network?")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    flags = ["--disable-gpu", "--no-first-run", "--use-fake-ui-for-media-stream"]
    flags += ["--use-fake-device-for-media-stream"]  # the browser's own camera
    flags += ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses root otherwise
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def world(
    tmp_path_factory: pytest.TempPathFactory, toy_head: Any, head_file: Path, tiny_clips: Path
) -> World:
    return World(tmp_path_factory.mktemp("world"), toy_head, head_file, tiny_clips)


@pytest.fixture(scope="session")
def site(world: World) -> Path:
    """A folder with ``report``, ``other`` (another model's), ``both`` side by side, and ``clips.html``."""
    folder = world.folder()
    _evaluation(world, folder / "report", 1)
    _evaluation(world, folder / "other", 2)
    write_comparison([read_run(folder / "report"), read_run(folder / "other")], folder / "both")
    write_dataset_page(folder / "clips.html", *_dataset(world))
    return folder


def _evaluation(world: World, out: Path, seed: int) -> None:
    """Evaluate all modes with a small model, and write what ``pipelines.evaluate`` leaves behind."""
    torch.manual_seed(seed)
    store = ClipStore(world.clips)
    clips = [clip.clip_id for clip in store.clips()]
    config = parse_settings({"model": "m", "clips": "c", "out": str(out)}, EvaluateConfig, "test")
    runner = ModelRunner(world.make_model(num_keypoints=3 + seed))
    stages = AllStages(runner, store, config, mask=HeadOutline(runner.model.tdmm))
    results = []
    for mode in MODES:
        for source, driving in zip(
            clips, clips if mode in ("reconstruction", "mesh") else clips[1:], strict=False
        ):
            job = EvaluationJob(mode, source, driving)
            made = evaluate(stages, job, out)
            people = store.info(source).person_id, store.info(driving).person_id
            results.append(ClipResult(job, *people, made.n_frames, 25.0, made.scores, 1.0))
    losses = [
        {"kind": "train", "step": n, "losses": {"generator_gan": 0.1 * n, "landmark": 9.0 / n}}
        for n in range(1, 9)
    ]
    content = ReportContent(
        title=f"Evaluation {seed}",
        results=tuple(results),
        failures=(Failure(clips[0], FailureCode.DECODE, "frame 3 " * 30, "evaluate/reconstruction"),),
        settings=("Images: 32 x 32 px (published: 256 x 256).",),
        runs=(TrainingRun("train", ("All networks: 8 steps, batch 2.",), losses),),
        seconds={"train": 75.0, "evaluate": 12.3},
        versions={"torch": torch.__version__},
        config=yaml.safe_dump({"seed": seed}),
        skipped={"fid": "skipped: weights missing (scorers.inception)"},
        hashes={"model_sha256": f"{seed}" * 64},
        step=8,
    )
    write_clips(out / "clips.parquet", results, "clips")
    write_page(content, out / "index.html")
    import json

    (out / "metrics.json").write_text(json.dumps(metrics_json(content)))
    settings = config.model_dump(mode="json") | {"model_sha256": f"{seed}" * 64}
    (out / "manifest.json").write_text(json.dumps({"settings": settings}))


def _dataset(world: World) -> tuple[DatasetStats, dict[str, Any]]:
    store = ClipStore(world.clips)
    samples = tuple(
        Sample(clip.clip_id, store.frames(clip.number, [0])[0], store.landmarks(clip.number, [0])[0])
        for clip in store.clips()
    )
    splits = (SplitCounts("train", 8, 5, 4, {"decode": 2, "no_face": 1}), SplitCounts("test", 2, 2, 1, {}))
    rng = np.random.default_rng(0)
    stats = DatasetStats(
        splits,
        7,
        7,
        tuple(rng.uniform(2, 9, 7)),
        tuple(rng.integers(200, 400, 7).tolist()),
        2e3,
        0.9,
        samples,
    )
    counts = {"in": 10, "ok": 7, "quarantined": 3, "pending": 0, "reasons": {"decode": 2, "no_face": 1}}
    return stats, counts


@dataclasses.dataclass
class Visit:
    """A page in the browser, and what its console said."""

    page: Any
    console: list[str]

    def violations(self, axe: str) -> str:
        """What axe-core finds wrong, one line per kind."""
        self.page.evaluate(axe)
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        lines = [f"{item['id']}: {item['nodes'][0]['html'][:200]} ({len(item['nodes'])})" for item in found]
        return "\n".join(lines) or "none"


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """``visit(url, width, scheme="light")``: the page in a window of this width."""
    contexts = []

    def open_page(url: str, width: int, scheme: str = "light") -> Visit:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page, console = context.new_page(), []
        page.on("console", lambda message: console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: console.append(f"error: {error}"))
        page.on("requestfailed", lambda request: console.append(f"failed: {request.url}"))
        page.goto(url)
        page.wait_for_load_state("load")
        return Visit(page, console)

    yield open_page
    for context in contexts:
        context.close()
