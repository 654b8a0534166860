"""Scorers from files: what they must return, and the errors when they don't."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safa.config import ModelConfig, parse_settings
from safa.config.inference import ScorerConfig
from safa.errors import UserError
from safa.evaluation.scorers import load_scorers, skipped_metrics
from safa.head.assets import HeadAssets
from safa.metrics import METRICS
from safa.metrics.expression import MOVEMENTS
from safa.models.tdmm import Tdmm
from safa.torchscript import load_script
from tests.hostile.test_corpus import MUTATIONS


class Means(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image.mean(dim=(2, 3))


class Corner(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return torch.zeros(len(image), 68, 2)


class Pool(nn.Module):
    def forward(self, image: Tensor, return_features: bool = False) -> Tensor:
        assert image.dtype == torch.uint8
        assert return_features
        return image.float().mean(dim=(2, 3))


@pytest.fixture
def tdmm(tiny_model: dict[str, Any], toy_head: HeadAssets) -> Tdmm:
    return Tdmm(parse_settings(tiny_model, ModelConfig, "test"), toy_head).eval()


def script(module: nn.Module, path: Path) -> Path:
    torch.jit.script(module).save(str(path))  # type: ignore[no-untyped-call]
    return path


def test_networks_are_read_and_used(tdmm: Tdmm, tmp_path: Path) -> None:
    config = ScorerConfig(
        landmarks=script(Corner(), tmp_path / "points.pt"),
        identity=script(Means(), tmp_path / "id.pt"),
        inception=script(Pool(), tmp_path / "inception.pt"),
    )
    scorers = load_scorers(config, tdmm)
    image = torch.full((2, 3, 32, 32), 0.5)
    assert scorers.landmarks
    assert scorers.identity
    assert scorers.inception
    assert scorers.landmarks(image).shape == (2, 68, 2)
    torch.testing.assert_close(scorers.identity(image), torch.full((2, 3), 0.5))
    torch.testing.assert_close(scorers.inception(image), torch.full((2, 3), 128.0))
    assert scorers.lpips is None


def test_the_models_own_landmarks_on_request(tdmm: Tdmm) -> None:
    scorers = load_scorers(ScorerConfig(landmarks="model"), tdmm)
    assert scorers.landmarks
    with torch.no_grad():
        assert scorers.landmarks(torch.rand(2, 3, 32, 32)).shape == (2, 68, 2)


@pytest.mark.parametrize(
    ("module", "field", "words"),
    [
        (Means(), "landmarks", r"does not give \(B, 68, 2\) points"),
        (Pool(), "identity", "fails on an image"),
        (Means(), "inception", "fails on an image"),
        (Corner(), "identity", r"does not give \(B, D\) embeddings"),
    ],
)
def test_a_network_of_another_kind_is_refused_in_one_line(
    tdmm: Tdmm, tmp_path: Path, module: nn.Module, field: str, words: str
) -> None:
    path = script(module, tmp_path / "net.pt")
    with pytest.raises(UserError, match=words) as error:
        load_scorers(ScorerConfig(**{field: path}), tdmm)
    assert "net.pt" in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file_and_no_network(tdmm: Tdmm, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_scorers(ScorerConfig(identity=tmp_path / "nothing.pt"), tdmm)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UserError, match="not a TorchScript file: it is a text file"):
        load_scorers(ScorerConfig(identity=tmp_path / "text.pt"), tdmm)


def test_a_program_is_named_by_its_sha256_before_it_is_loaded(
    tdmm: Tdmm, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = script(Means(), tmp_path / "net.pt")
    with caplog.at_level("INFO"):
        load_scorers(ScorerConfig(identity=path), tdmm)
    assert f"SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}" in caplog.text
    caplog.clear()
    path.write_bytes(path.read_bytes()[:-300])
    with caplog.at_level("INFO"), pytest.raises(UserError, match="not a TorchScript file"):
        load_scorers(ScorerConfig(identity=path), tdmm)
    assert f"SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}" in caplog.text


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_spoiled_program_is_loaded_or_refused_in_one_line(mutation: str, tmp_path: Path) -> None:
    path = script(Means(), tmp_path / "net.pt")
    path.write_bytes(MUTATIONS[mutation](path.read_bytes()))
    with suppress(UserError):  # whose text is one line
        load_script(path, "cpu")


def test_what_is_skipped_has_a_reason() -> None:
    reasons = skipped_metrics(ScorerConfig(), 64)
    expression = {f"{name}_{what}" for name in MOVEMENTS for what in ("correlation", "gain")}
    networks = {"lpips", "akd", "detection_rate", "aed", "csim", "fid"}
    assert set(reasons) == {"ms_ssim"} | networks | expression
    assert reasons["fid"] == "skipped: no weights are named (scorers.inception)"
    assert reasons["ms_ssim"] == "skipped: images have 64 px, but it needs 176 px"
    everything = ScorerConfig(landmarks="model", identity=Path("i"), lpips=Path("l"), inception=Path("f"))
    assert skipped_metrics(everything, 256) == {}
    assert set(reasons) < {metric.key for metric in METRICS}
