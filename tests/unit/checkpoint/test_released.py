"""Released checkpoints: nothing in them runs, faults are named, and the way to ours and back is exact."""

from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from safa.checkpoint.native import load_model, load_state, read_model_weights
from safa.checkpoint.released import (
    FULL,
    export_released,
    import_released,
    read_released,
    released_model,
)
from safa.config import ModelConfig, parse_settings
from safa.errors import UserError
from safa.head.assets import HeadAssets
from safa.models.discriminator import MultiScaleDiscriminator
from safa.models.safa import Safa
from safa.training.context import LocalContext
from safa.training.loop import fit
from safa.training.stages import make_stage

Content = dict[str, Any]


@pytest.fixture
def config(tiny_model: Content) -> ModelConfig:
    return parse_settings(tiny_model, ModelConfig, "test")


@pytest.fixture
def content(config: ModelConfig, toy_head: HeadAssets) -> Content:
    """What the reference's trainer saves: state dicts and Adams over all parameters, after two steps."""
    torch.manual_seed(0)
    model = Safa(config, toy_head)
    networks: dict[str, nn.Module] = {
        "generator": model.generator,
        "kp_detector": model.kp_detector,
        "discriminator": MultiScaleDiscriminator(config),
        "tdmm": model.tdmm,
    }
    saved: Content = {name: network.state_dict() for name, network in networks.items()}
    for name, network in networks.items():
        adam = torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999))
        torch.optim.lr_scheduler.MultiStepLR(adam, [15, 30, 45])  # leaves initial_lr in the group
        for _ in range(2):
            for parameter in network.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.randn_like(parameter)
            adam.step()
        saved[f"optimizer_{name}"] = adam.state_dict()
    return saved | {"epoch": 12}


def _save(content: object, tmp_path: Path) -> Path:
    path = tmp_path / "released.pth.tar"
    torch.save(content, path)
    return path


def _assert_equal(a: object, b: object, where: str = "") -> None:
    """The same nesting, keys in the same order, tensors equal bit for bit."""
    if isinstance(a, torch.Tensor):
        assert isinstance(b, torch.Tensor), where
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert isinstance(b, dict), where
        assert list(a) == list(b), where
        for key in a:
            _assert_equal(a[key], b[key], f"{where}.{key}")
    else:
        assert a == b, where


def _assert_same_file(a: Path, b: Path) -> None:
    _assert_equal(torch.load(a, weights_only=True), torch.load(b, weights_only=True))


def test_there_and_back_bit_for_bit(content: Content, config: ModelConfig, tmp_path: Path) -> None:
    path = _save(content, tmp_path)
    info = import_released(path, tmp_path / "ours", config)
    assert (info.stage, info.step) == ("full", 2)
    export_released(tmp_path / "ours", tmp_path / "back.pth.tar")
    _assert_equal(
        torch.load(tmp_path / "back.pth.tar", weights_only=True), torch.load(path, weights_only=True)
    )


def test_head_only_there_and_back(content: Content, config: ModelConfig, tmp_path: Path) -> None:
    path = _save({key: content[key] for key in ("tdmm", "optimizer_tdmm", "epoch")}, tmp_path)
    assert import_released(path, tmp_path / "ours", config).stage == "head"
    export_released(tmp_path / "ours", tmp_path / "back.pth.tar")
    _assert_equal(
        torch.load(tmp_path / "back.pth.tar", weights_only=True), torch.load(path, weights_only=True)
    )


def test_steps_counted_as_whole_numbers_come_back_as_such(
    content: Content, config: ModelConfig, tmp_path: Path
) -> None:
    """Older torch kept Adam's step as an int."""
    for name in FULL:
        for state in content[f"optimizer_{name}"]["state"].values():
            state["step"] = int(state["step"])
    path = _save(content, tmp_path)
    import_released(path, tmp_path / "ours", config)
    export_released(tmp_path / "ours", tmp_path / "back.pth.tar")
    _assert_equal(
        torch.load(tmp_path / "back.pth.tar", weights_only=True), torch.load(path, weights_only=True)
    )


def test_imported_model_has_the_released_weights(
    content: Content, config: ModelConfig, tmp_path: Path
) -> None:
    import_released(_save(content, tmp_path), tmp_path / "ours", config)
    model, _ = load_model(tmp_path / "ours")
    _assert_equal(dict(model.generator.state_dict()), dict(content["generator"]))
    _assert_equal(dict(model.tdmm.state_dict()), dict(content["tdmm"]))


def test_moments_reach_their_parameters(
    content: Content, config: ModelConfig, tmp_path: Path, make_config: Callable[..., Any]
) -> None:
    """The i-th released entry is the i-th parameter; the 3DMM's frozen poses have a number but no entry."""
    import_released(_save(content, tmp_path), tmp_path / "ours", config)
    stage = make_stage(make_config("full"), LocalContext())
    load_state(tmp_path / "ours", stage.state)
    for name, network in stage.networks.items():
        entries = content[f"optimizer_{name}"]["state"]
        for number, parameter in enumerate(network.parameters()):
            if parameter.requires_grad:
                wanted = entries[number]["exp_avg"]
                assert torch.equal(stage.optimisers[name].state[parameter]["exp_avg"], wanted)
            else:
                assert number not in entries


def test_our_own_run_exports_to_the_released_layout(make_config: Callable[..., Any], tmp_path: Path) -> None:
    config = make_config("full", length=2)
    fit(config, LocalContext())
    state = config.folder / "checkpoints" / "step-00000002"
    export_released(state, tmp_path / "out.pth.tar")
    released = read_released(tmp_path / "out.pth.tar")
    assert set(released.networks) == set(released.optimisers) == set(FULL)
    import_released(tmp_path / "out.pth.tar", tmp_path / "ours", config.model)
    (before, _), (after, _) = read_model_weights(state), read_model_weights(tmp_path / "ours")
    _assert_equal(dict(sorted(before.items())), dict(sorted(after.items())))
    networks = make_stage(config, LocalContext()).networks
    for name, network in networks.items():
        adam = torch.optim.Adam(network.parameters(), betas=(0.5, 0.999))
        adam.load_state_dict(released.optimisers[name])  # torch's own reader takes it


# ---- faults ------------------------------------------------------------------------------------------------


class Trap:
    """Unpickling it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("writer", ["torch", "pickle", "legacy"])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, writer: str) -> None:
    path, sprung = tmp_path / "evil.pth.tar", tmp_path / "sprung"
    content = {"tdmm": OrderedDict(), "epoch": Trap(sprung)}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=writer == "torch")
    with pytest.raises(UserError, match="refused to unpickle") as error:
        read_released(path)
    assert "\n" not in str(error.value)
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tdmm": None}, "missing 'tdmm'"),
        ({"kp_detector": None, "generator": None}, "missing 'generator', missing 'kp_detector'"),
        (dict.fromkeys(FULL), r"missing 'tdmm' \(it has optimizer_generator, "),
        ({"generator": {"final.weight": "text"}}, "'generator' is no state dict"),
        ({"epoch": "three"}, "'epoch' is str"),
    ],
)
def test_other_layouts_are_described(content: Content, tmp_path: Path, change: Content, message: str) -> None:
    changed = {key: value for key, value in (content | change).items() if value is not None}
    with pytest.raises(UserError, match=message) as error:
        read_released(_save(changed, tmp_path))
    assert "\n" not in str(error.value)


def test_missing_unexpected_and_misshapen_weights_are_named(
    content: Content, config: ModelConfig, tmp_path: Path
) -> None:
    generator = content["generator"]
    del generator["fc_1.bias"]
    generator["fc_9.bias"] = torch.zeros(2)
    generator["final.weight"] = torch.zeros(3, 4, 5, 5)
    message = (
        r"generator: weights do not fit \(1 missing: fc_1\.bias; 1 unexpected: fc_9\.bias; "
        r"1 of another shape: final\.weight \(3x4x5x5 instead of 3x4x7x7\)\)"
    )
    with pytest.raises(UserError, match=message):
        import_released(_save(content, tmp_path), tmp_path / "ours", config)
    assert not (tmp_path / "ours").exists()


def test_an_optimiser_of_another_network_is_refused(
    content: Content, config: ModelConfig, tmp_path: Path
) -> None:
    content["optimizer_tdmm"] = content["optimizer_generator"]
    with pytest.raises(UserError, match="optimizer_tdmm: is not the state of an Adam over this network"):
        import_released(_save(content, tmp_path), tmp_path / "ours", config)


@pytest.mark.parametrize("damage", ["half", "empty", "text"])
def test_damaged_files_are_one_line(content: Content, tmp_path: Path, damage: str) -> None:
    path = _save(content, tmp_path)
    whole = path.read_bytes()
    path.write_bytes({"half": whole[: len(whole) // 2], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(UserError, match=r"released\.pth\.tar: ") as error:
        read_released(path)
    assert "\n" not in str(error.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_released(tmp_path / "nothing.pth.tar")


def test_names_and_order_are_the_released_ones(golden: Path, toy_head: HeadAssets) -> None:
    """The order of the state dict is what numbers the released optimiser's entries."""
    model = Safa(ModelConfig(), toy_head)
    wanted = json.loads((golden / "state_dict_keys.json").read_text())
    networks = {
        "generator": model.generator,
        "kp_detector": model.kp_detector,
        "tdmm": model.tdmm,
        "discriminator": MultiScaleDiscriminator(ModelConfig()),
    }
    for name, network in networks.items():
        assert list(network.state_dict()) == list(wanted[name])


# ---- files of other shapes ---------------------------------------------------------------------------------


def _parallel(content: Content) -> Content:
    return {
        key: {f"module.{name}": tensor for name, tensor in value.items()} if key in FULL else value
        for key, value in content.items()
    }


def _half(content: Content) -> Content:
    def halved(tensors: Content) -> Content:
        return {key: t.half() if t.is_floating_point() else t for key, t in tensors.items()}

    return content | {name: halved(content[name]) for name in FULL}


def _without(*names: str) -> Callable[[Content], Content]:
    return lambda content: {key: value for key, value in content.items() if key not in names}


OPTIMISERS = tuple(f"optimizer_{name}" for name in FULL)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (_parallel, "names without 'module.' in 'generator'"),
        (_half, "float32 in place of half precision in 'tdmm'"),
        (_without("discriminator", "optimizer_discriminator"), ""),
        (_without(*OPTIMISERS), ""),
        (_without("discriminator", "epoch", *OPTIMISERS), ""),
        (lambda content: content | {"ema": {"a": torch.ones(2)}, "args": [1]}, "'ema' is left out"),
    ],
    ids=["module.", "half", "no discriminator", "no optimisers", "networks alone", "more keys"],
)
def test_files_of_other_shapes_are_read_and_what_was_done_is_named(
    content: Content,
    config: ModelConfig,
    tmp_path: Path,
    change: Callable[[Content], Content],
    note: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    info = import_released(_save(change(content), tmp_path), tmp_path / "ours", config)
    assert (info.stage, note in caplog.text) == ("full", True)
    assert bool(note) == bool(caplog.text)
    model, _ = load_model(tmp_path / "ours")
    for name, network in (("generator", model.generator), ("tdmm", model.tdmm)):
        for key, value in network.state_dict().items():
            tolerance = {"atol": 1e-2, "rtol": 1e-3} if change is _half else {"atol": 0, "rtol": 0}
            torch.testing.assert_close(value, content[name][key], **tolerance)
    export_released(tmp_path / "ours", tmp_path / "back.pth")
    assert set(read_released(tmp_path / "back.pth").networks) == set(FULL) & set(change(content))


def test_a_file_of_stage_1_where_one_of_stage_2_is_wanted(content: Content, tmp_path: Path) -> None:
    head = {name: content[name] for name in ("tdmm", "optimizer_tdmm", "epoch")}
    with pytest.raises(UserError, match="holds the 3DMM alone"):
        released_model(_save(head, tmp_path))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "is an HTML page.*saved the page instead"),
        (b"\0" * 4096, "a download that was never finished"),
        (b"\x1f\x8b\x08" + b"a" * 50, "is a gzip archive"),
    ],
)
def test_what_is_no_checkpoint_is_named(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.pth.tar").write_bytes(data)
    with pytest.raises(UserError, match=words):
        read_released(tmp_path / "a.pth.tar")


def test_one_network_alone_and_weights_that_are_not_finite(content: Content, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is the state dict of one network \(.*A checkpoint has generator"):
        read_released(_save(content["generator"], tmp_path))
    content["generator"]["final.weight"].fill_(float("nan"))
    with pytest.raises(UserError, match="holds numbers that are not finite"):
        released_model(_save(content, tmp_path))
