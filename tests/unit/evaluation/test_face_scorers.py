"""Scorers by name: dlib on pictures of synthetic people, and what is said where it is not here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from safa.config import ModelConfig, parse_settings
from safa.config.inference import ScorerConfig
from safa.data.detectors import Face, dlib_faces
from safa.data.detectors.dlib_faces import DlibDetector, DlibIdentity
from safa.data.video import read_frames
from safa.errors import UserError
from safa.evaluation import face_scorers, scorers
from safa.evaluation.face_scorers import DlibFaces
from safa.evaluation.scorers import load_scorers, skipped_metrics
from safa.head.assets import HeadAssets
from safa.models.tdmm import Tdmm

BOTH = ScorerConfig(landmarks="dlib", identity="dlib", landmarks_every=2, identity_every=8)


@pytest.mark.skipif(bool(dlib_faces.missing()), reason=dlib_faces.missing() or "dlib is here")
def test_small_faces_are_found_and_empty_pictures_are_not(synthetic_people: Path) -> None:
    video = next((synthetic_people / "videos").glob("*.mp4"))
    frames = [next(read_frames(video)), np.zeros((128, 128, 3), np.uint8)]
    found = {}
    for size in (128, 64):
        small = [_scaled(frame, size) for frame in frames]
        image = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255
        dlib = DlibFaces()
        found[size], embedded = dlib.landmarks(image), dlib.identity(image)
        for rows in (found[size], embedded):
            assert rows.flatten(1).isfinite().all(1).tolist() == [True, False]
        assert embedded.shape == (2, 128)
    assert (found[64][0] * 2 - found[128][0]).abs().mean() < 2.5


@pytest.mark.skipif(bool(dlib_faces.missing()), reason=dlib_faces.missing() or "dlib is here")
def test_a_picture_that_comes_again_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    monkeypatch.setattr(
        DlibDetector, "detect", lambda *_: looked.append("face") or [(Face(8, 8, 56, 56, 1.0),)]
    )
    monkeypatch.setattr(DlibIdentity, "embeddings", lambda *_: looked.append("who") or np.ones((1, 128)))
    monkeypatch.setattr(face_scorers, "KEPT", 2)
    dlib, images = DlibFaces(), torch.rand(3, 3, 64, 64)
    for _ in range(2):
        dlib.landmarks(images[:2])
        dlib.identity(images[:2])
    assert looked == ["face", "face", "who", "who"]
    dlib.identity(images)  # the third picture takes the place of the one that was used longest ago
    dlib.identity(images[1:])
    assert looked[4:] == ["face", "who"]
    dlib.identity(images[:1])
    assert looked[6:] == ["face", "who"]


def _scaled(frame: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BOX))


@pytest.fixture
def tdmm(tiny_model: dict[str, Any], toy_head: HeadAssets) -> Tdmm:
    return Tdmm(parse_settings(tiny_model, ModelConfig, "test"), toy_head).eval()


def test_without_dlib_its_metrics_are_skipped_with_the_reason(
    tdmm: Tdmm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    here = scorers.scorers_here(BOTH)
    monkeypatch.setattr(scorers, "missing_of_dlib", lambda: "the package dlib-bin is not installed")
    caplog.clear()
    left = scorers.scorers_here(BOTH)
    said = "evaluate: the package dlib-bin is not installed, so scores that need it are left out (scorers)"
    assert caplog.messages == [said]
    assert (left.landmarks, left.identity, left.landmarks_every) == (None, None, 2)
    assert scorers.scorers_here(ScorerConfig(landmarks="model")).landmarks == "model"
    if not dlib_faces.missing():
        assert here == BOTH
    loaded = load_scorers(left, tdmm)
    assert (loaded.landmarks, loaded.identity) == (None, None)
    reasons = skipped_metrics(BOTH, 64)
    assert reasons["akd"] == "skipped: the package dlib-bin is not installed (scorers.landmarks)"
    assert "eye_opening_gain" in reasons
    assert reasons["csim"].endswith("(scorers.identity)")


def test_a_worker_that_lacks_dlib_fails(tdmm: Tdmm, monkeypatch: pytest.MonkeyPatch) -> None:
    for network in (dlib_faces._detector, dlib_faces._predictor, dlib_faces._identity):
        network.cache_clear()
    monkeypatch.setattr(dlib_faces, "missing", lambda: "the package dlib-bin is not installed")
    for named in (BOTH, ScorerConfig(landmarks="dlib"), ScorerConfig(identity="dlib")):
        with pytest.raises(UserError, match="dlib: the package dlib-bin is not installed"):
            load_scorers(named, tdmm)


def test_fan_names_the_files_it_lacks(tdmm: Tdmm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face_scorers, "asset_folders", lambda: (tmp_path,))
    with pytest.raises(UserError, match=r"scorers\.landmarks: fan: .*no s3fd-619a316812\.pth"):
        load_scorers(ScorerConfig(landmarks="fan"), tdmm)
