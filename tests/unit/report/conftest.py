"""A report's content by hand, with files beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from safa.errors import Failure, FailureCode
from safa.evaluation.clip_files import POSTER, STRIP, VIDEO
from safa.evaluation.frame_scores import SCORES
from safa.evaluation.jobs import EvaluationJob
from safa.evaluation.results import ClipResult
from safa.report.content import ReportContent, TrainingRun

EVIL = '<script>alert("x")</script>'


def _reconstructed(person: str, gain: float, copied: float = 20.0) -> ClipResult:
    scores = dict.fromkeys(SCORES, 0.5) | {"psnr": copied + gain, "psnr_copy_source": copied}
    scores |= {"landmark_nme": 0.05, "landmark_nme_copy_source": 0.2, "l1": 0.02, "l1_copy_source": 0.04}
    clip = f"{person}#v#000000#000096"
    return ClipResult(EvaluationJob("reconstruction", clip, clip), person, person, 96, 25.0, scores, 3.0)


def _animated(source: str, driving: str) -> ClipResult:
    job = EvaluationJob("animation", *(f"{person}#v#000000#000096" for person in (source, driving)))
    return ClipResult(job, source, driving, 96, 25.0, {}, 3.0)


def _records() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for step in range(10, 60, 10):
        losses = {"landmark": 100.0 / step, "tdmm_param": math.nan if step == 30 else 0.1}
        rows.append({"kind": "train", "step": step, "losses": losses})
    for step in (25, 50):
        scores = {"landmark_nme": 1 / step, "landmark_nme_copy_source": 0.2}
        rows.append({"kind": "validate", "step": step, "scores": scores})
    return rows


def _content(*gains: float) -> ReportContent:
    results = [_reconstructed(f"p{number:02d}", gain) for number, gain in enumerate(gains)]
    return ReportContent(
        title=f"Test {EVIL}",
        results=(*results, _animated("p00", "q00")),
        failures=(
            Failure("bad#v#000000#000009", FailureCode.DECODE, f"frame 3: {EVIL}", "evaluate/reconstruction"),
        ),
        settings=("Perceptual loss: pixel_pyramid stand-in, no VGG19 weights.",),
        runs=(TrainingRun("pretrain", ("3DMM alone: 50 steps, batch 8.",), _records()),),
        seconds={"train": 75.0, "evaluate": 12.34},
        versions={"torch": "2.13.0"},
        config=f"title: {EVIL}\n",
    )


@pytest.fixture
def content() -> Callable[..., ReportContent]:
    """``content(1.0, 3.0)``: reconstructions that gain so many dB on copying, an animation and a failure."""
    return _content


@pytest.fixture
def lay_out(tmp_path: Path) -> Callable[[ReportContent], Path]:
    """``lay_out(content)``: a folder with a video and a strip of every clip."""

    def lay(content: ReportContent) -> Path:
        for result in content.results:
            folder = tmp_path / "clips" / result.job.mode / result.job.folder_name
            folder.mkdir(parents=True)
            Image.new("RGB", (2000, 300), (90, 120, 90)).save(folder / STRIP)
            (folder / VIDEO).write_bytes(b"")
            Image.new("RGB", (582, 221), (90, 90, 120)).save(folder / POSTER)
        return tmp_path

    return lay
