"""Training states: bit for bit there and back, whole or absent, refused in one line when they do not fit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from safa.checkpoint.native import (
    ModelInfo,
    Progress,
    TrainState,
    keep_states,
    latest_state,
    load_model,
    load_state,
    pack_model,
    read_latest_state,
    read_model_weights,
    save_model,
    save_state,
    set_newer_aside,
)
from safa.config import ModelConfig, parse_settings
from safa.config.training import StepConfig
from safa.errors import UserError
from safa.files import atomic_dir
from safa.head import load_head_assets, raster
from safa.head.assets import HeadAssets
from safa.models.safa import Safa
from safa.training.optim import make_adam

INFO = ModelInfo("full", ModelConfig(), 7, "a-run")


class TwoNames(nn.Module):
    """Like the 3DMM: one layer under two names, a frozen parameter, BatchNorm statistics."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU())
        self.classifier = nn.Linear(width, 2)
        self.fc = self.classifier
        self.pose = nn.Parameter(torch.zeros(3), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(self.features(x).mean(dim=(2, 3)))
        return out


def _state(seed: int, *, fused: bool = True, ema: bool = False, width: int = 4) -> TrainState:
    torch.manual_seed(seed)
    network = TwoNames(width)
    adam = make_adam(network, 1e-2, (0.5, 0.999), StepConfig(fused_adam=fused))
    averaged = TwoNames(width).requires_grad_(False) if ema else None
    return TrainState({"tdmm": network}, {"tdmm": adam}, averaged)


def _train(state: TrainState, steps: int, seed: int) -> None:
    network, adam = state.networks["tdmm"], state.optimisers["tdmm"]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        adam.zero_grad()
        network(torch.rand(2, 3, 6, 6, generator=generator)).square().sum().backward()
        adam.step()


def _assert_same(a: TrainState, b: TrainState) -> None:
    torch.testing.assert_close(
        a.networks["tdmm"].state_dict(), b.networks["tdmm"].state_dict(), atol=0, rtol=0
    )


@pytest.mark.parametrize("fused", [True, False])
def test_resuming_from_a_state_equals_never_stopping(tmp_path: Path, fused: bool) -> None:
    straight = _state(0, fused=fused)
    _train(straight, 3, seed=1)
    done = Progress(3, 24, 0, 1.5, {"landmark": 0.1}, 2)
    save_state(tmp_path, straight, done, INFO)
    _train(straight, 3, seed=2)

    resumed = _state(99, fused=fused)
    assert load_state(tmp_path / "step-00000003", resumed) == done
    _train(resumed, 3, seed=2)
    _assert_same(straight, resumed)


def test_moments_take_the_layout_of_their_parameter(tmp_path: Path) -> None:
    first = _state(0)
    _train(first, 1, seed=1)
    save_state(tmp_path, first, Progress(1), INFO)
    second = _state(1)
    second.networks["tdmm"].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    load_state(tmp_path / "step-00000001", second)
    kernel = second.networks["tdmm"].get_parameter("features.0.weight")
    moment = second.optimisers["tdmm"].state[kernel]["exp_avg"]
    assert moment.is_contiguous(memory_format=torch.channels_last)
    _assert_same(first, second)


def test_the_ema_is_kept_and_is_what_inference_reads(tmp_path: Path) -> None:
    state = _state(0, ema=True)
    assert state.ema is not None
    save_state(tmp_path, state, Progress(1), ModelInfo("head", ModelConfig(), 1, "a-run"))
    weights, info = read_model_weights(tmp_path)
    assert info.stage == "head"
    torch.testing.assert_close(weights["tdmm.fc.weight"], state.ema.state_dict()["fc.weight"])
    other = _state(5, ema=True)
    load_state(tmp_path / "step-00000001", other)
    assert other.ema is not None
    torch.testing.assert_close(other.ema.state_dict(), state.ema.state_dict(), atol=0, rtol=0)


def test_newest_state_by_number_and_old_ones_removed(tmp_path: Path) -> None:
    state = _state(0)
    assert latest_state(tmp_path / "nothing") is None
    for step in (9, 10, 100):
        save_state(tmp_path, state, Progress(step), INFO)
    (tmp_path / ".tmp-0123456789ab").mkdir()  # a crash in the middle of writing
    assert latest_state(tmp_path) == tmp_path / "step-00000100"
    keep_states(tmp_path, 2, {}, "l1")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000010", "step-00000100"]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with atomic_dir(folder) as temporary:
        (temporary / "a").write_text("first")

    def fail() -> None:
        with atomic_dir(folder) as temporary:
            (temporary / "a").write_text("second")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert (folder / "a").read_text() == "first"


def test_other_sizes_are_refused_by_name(tmp_path: Path) -> None:
    save_state(tmp_path, _state(0), Progress(1), INFO)
    with pytest.raises(
        UserError, match=r"of another shape: features\.0\.weight \(4x3x3x3 instead of 5x3x3x3\)"
    ):
        load_state(tmp_path / "step-00000001", _state(0, width=5))


def test_missing_and_unexpected_networks_are_named(tmp_path: Path) -> None:
    save_state(tmp_path, _state(0), Progress(1), INFO)
    wanted = TrainState({"generator": TwoNames()}, {}, None)
    with pytest.raises(UserError, match=r"network generator: weights do not fit \(12 missing: "):
        load_state(tmp_path / "step-00000001", wanted)


@pytest.mark.parametrize("name", ["networks.safetensors", "optimisers.safetensors", "state.json"])
def test_damaged_files_are_named(tmp_path: Path, name: str) -> None:
    folder = save_state(tmp_path, _state(0), Progress(1), INFO)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=rf"{name}: cannot be read") as error:
        load_state(folder, _state(0))
    assert "\n" not in str(error.value)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a file cut off": lambda folder: os.truncate(folder / "networks.safetensors", 1000),
    "an empty file": lambda folder: os.truncate(folder / "optimisers.safetensors", 0),
    "a header of noise": lambda folder: (folder / "networks.safetensors").write_bytes(b"\xff" * 5000),
    "no tensors": lambda folder: (folder / "networks.safetensors").unlink(),
    "no state.json": lambda folder: (folder / "state.json").unlink(),
    "half of state.json": lambda folder: os.truncate(folder / "state.json", 100),
    "a state.json of something else": lambda folder: (folder / "state.json").write_text('{"format": 1}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_one_before_a_damaged_state_is_taken(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    states = tmp_path / "checkpoints"
    for step in (1, 2, 3):
        save_state(states, _state(step), Progress(step), INFO)
    for step in (2, 3):
        DAMAGES[damage](states / f"step-{step:08d}")
    found = read_latest_state(states)
    assert found is not None
    assert (found[0].name, found[1].progress.step) == ("step-00000001", 1)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    for step, line in zip((3, 2), lines, strict=True):
        assert f"step-{step:08d} is damaged (" in line
        assert line.endswith(f"{found[0]} is taken instead")
    weights, _ = read_model_weights(tmp_path)
    torch.testing.assert_close(weights["tdmm.fc.weight"], _state(1).networks["tdmm"].fc.weight.detach())

    DAMAGES[damage](states / "step-00000001")
    for read in (read_latest_state, read_model_weights):
        with pytest.raises(UserError, match="step-00000003") as error:
            read(states)
        assert "\n" not in str(error.value)


def test_damaged_states_are_set_aside(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save_state(tmp_path, _state(0), Progress(step), INFO)
    set_newer_aside(tmp_path, 1)
    assert latest_state(tmp_path) == tmp_path / "step-00000001"
    assert len(list(tmp_path.glob("damaged-*"))) == 2


def test_nothing_to_load_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model or checkpoint here"):
        read_model_weights(tmp_path)


def test_a_model_trained_with_pytorch3d_opens_without_it(
    tiny_model: dict[str, Any],
    toy_head: HeadAssets,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its file keeps what it was trained with; who opens it may choose."""
    config = parse_settings(tiny_model, ModelConfig, "test")
    model = Safa(config, toy_head)
    save_model(tmp_path, model, ModelInfo("full", config.with_rasterizer("pytorch3d"), 1, "a-run"))

    def opened(rasterizer: str) -> Callable[..., object]:
        loaded, info = load_model(tmp_path, rasterizer=rasterizer)
        assert info.config.head.rasterizer == "pytorch3d"
        return loaded.tdmm._rasterizer

    monkeypatch.setattr(raster, "find_spec", lambda name: None)
    assert opened("native") is raster.rasterize
    assert not caplog.text
    assert opened("auto") is raster.rasterize
    assert "trained with the rasteriser of PyTorch3D, which is not installed" in caplog.text
    with pytest.raises(UserError, match="rasterizer: PyTorch3D is not installed"):
        opened("pytorch3d")
    with pytest.raises(UserError, match="rasterizer: there is no 'opengl'"):
        opened("opengl")
    caplog.clear()
    monkeypatch.setattr(raster, "find_spec", lambda name: object())
    assert opened("auto") is opened("pytorch3d") is raster.rasterize_pytorch3d
    assert opened("native") is raster.rasterize
    assert not caplog.text


def test_a_model_is_loaded_without_what_takes_a_second_to_import(
    tiny_model: dict[str, Any], tmp_path: Path
) -> None:
    """Its sizes are compared on the meta device, of which many functions import sympy when first called."""
    config = parse_settings(tiny_model, ModelConfig, "test")
    save_model(tmp_path, Safa(config, load_head_assets(config.head)), ModelInfo("full", config, 7, "a-run"))
    code = "import sys\nfrom safa.checkpoint.native import load_model\nload_model(sys.argv[1])\n"
    code += "print(sorted({'sympy'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_a_packed_model_has_no_head_and_gives_the_same_numbers(
    tiny_model: dict[str, Any], tmp_path: Path
) -> None:
    config = parse_settings(tiny_model, ModelConfig, "test")
    model = Safa(config, load_head_assets(config.head)).eval()
    info = ModelInfo("full", config, 7, "a-run")
    save_model(tmp_path / "whole", model, info)
    pack_model(tmp_path / "packed", model, info)
    whole, packed = (load_model(tmp_path / name)[0] for name in ("whole", "packed"))
    for name, value in whole.state_dict().items():
        assert torch.equal(packed.state_dict()[name], value), name
    sizes = [(tmp_path / name / "weights.safetensors").stat().st_size for name in ("whole", "packed")]
    assert sizes[0] - sizes[1] > 10e6


def test_a_model_with_another_head_is_not_packed(
    tiny_model: dict[str, Any], toy_head: HeadAssets, tmp_path: Path
) -> None:
    """Be it that the settings name its file, or that it came with a released checkpoint."""
    for head in (tiny_model["head"], {**tiny_model["head"], "assets": "flame.npz"}):
        config = parse_settings({**tiny_model, "head": head}, ModelConfig, "test")
        with pytest.raises(UserError, match="not the built-in one, so it cannot be left out"):
            pack_model(tmp_path / "packed", Safa(config, toy_head), ModelInfo("full", config, 7, "a-run"))
        assert not (tmp_path / "packed").exists()
