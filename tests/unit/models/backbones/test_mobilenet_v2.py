"""MobileNetV2's features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from safa.errors import UserError
from safa.models.backbones.mobilenet_v2 import InvertedResidual, load_imagenet_weights, mobilenet_v2_features


def test_the_published_size_has_its_published_number_of_weights() -> None:
    features = mobilenet_v2_features()
    assert len(features) == 19
    # 3,504,872 of the whole network (table 4: 3.4 M) less 1280 * 1000 + 1000 of its classifier.
    assert sum(p.numel() for p in features.parameters()) == 2_223_872


@pytest.mark.parametrize("width", [0.1, 0.35, 1.0])
def test_the_feature_keeps_its_1280_channels(width: float) -> None:
    features = mobilenet_v2_features(width).eval()
    assert features(torch.rand(2, 3, 64, 96)).shape == (2, 1280, 2, 3)


def test_strides_say_how_far_a_picture_shrinks() -> None:
    features = mobilenet_v2_features(0.1, blocks=(1,) * 7, strides=(1, 1, 1, 2, 1, 2, 1)).eval()
    assert len(features) == 9
    assert features(torch.rand(1, 3, 64, 64)).shape == (1, 1280, 8, 8)


def test_channels_are_multiples_of_8_and_hardly_rounded_down() -> None:
    stem = {width: mobilenet_v2_features(width)[0][0].out_channels for width in (0.1, 0.35, 0.75, 1.0, 1.4)}
    assert stem == {0.1: 8, 0.35: 16, 0.75: 24, 1.0: 32, 1.4: 48}


@pytest.mark.parametrize(("channels", "stride", "adds"), [(8, 1, True), (8, 2, False), (16, 1, False)])
def test_only_equal_shapes_are_added(channels: int, stride: int, adds: bool) -> None:
    block = InvertedResidual(8, channels, stride, expansion=6).eval()
    torch.nn.init.zeros_(block.conv[-2].weight)
    x = torch.rand(1, 8, 6, 6)
    assert torch.equal(block(x), x) == adds


def test_imagenet_weights_load_by_their_names(tmp_path: Path) -> None:
    given, features = mobilenet_v2_features(), mobilenet_v2_features()
    state = {f"features.{name}": value for name, value in given.state_dict().items()}
    save_file({**state, "classifier.1.bias": torch.zeros(1000)}, tmp_path / "weights.safetensors")
    torch.save(state, tmp_path / "weights.pth")
    for name in ("weights.safetensors", "weights.pth"):
        load_imagenet_weights(features, tmp_path / name)
        assert all(
            torch.equal(features.state_dict()[key], value) for key, value in given.state_dict().items()
        )
        features = mobilenet_v2_features()


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"features.0.0.weight": torch.zeros(32, 3, 3, 3)}, path)
    with pytest.raises(UserError, match=r"no 'features\.0\.1\.weight'"):
        load_imagenet_weights(mobilenet_v2_features(), path)
    with pytest.raises(UserError, match=r"is \(32, 3, 3, 3\), not \(16, 3, 3, 3\)"):
        load_imagenet_weights(mobilenet_v2_features(0.5), path)


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    features = mobilenet_v2_features(0.1)
    with pytest.raises(UserError, match="no such file"):
        load_imagenet_weights(features, tmp_path / "nowhere.pth")
    for name, message in (("text.pth", "is a text file"), ("text.safetensors", "no state dict of tensors")):
        (tmp_path / name).write_text("hello")
        with pytest.raises(UserError, match=message):
            load_imagenet_weights(features, tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="no state dict of tensors"):
        load_imagenet_weights(features, tmp_path / "list.pth")
