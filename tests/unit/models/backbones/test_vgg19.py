from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from safa.errors import UserError
from safa.models.backbones.vgg19 import Vgg19Features, load_vgg19


@pytest.fixture(scope="module")
def published_layout() -> dict[str, Tensor]:
    """Random weights under torchvision's names, with a layer that is not needed."""
    torch.manual_seed(0)
    own = {k: v for k, v in Vgg19Features().state_dict().items() if k.startswith("slice")}
    state = {f"features.{name.partition('.')[2]}": value for name, value in own.items()}
    return state | {"classifier.0.weight": torch.zeros(1)}


def test_five_maps_at_the_published_sizes() -> None:
    features = Vgg19Features()(torch.rand(1, 3, 32, 32))
    assert [tuple(f.shape[1:]) for f in features] == [
        (64, 32, 32),
        (128, 16, 16),
        (256, 8, 8),
        (512, 4, 4),
        (512, 2, 2),
    ]
    assert all(f.min() >= 0 for f in features)  # after a ReLU


def test_nothing_is_trained_and_gradients_reach_the_image() -> None:
    network = Vgg19Features()
    assert not any(p.requires_grad for p in network.parameters())
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    network(image)[-1].sum().backward()
    assert image.grad is not None


def test_too_small_an_image_is_refused() -> None:
    with pytest.raises(ValueError, match="16 px"):
        Vgg19Features()(torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize("name", ["vgg.pth", "vgg.safetensors"])
def test_loads_torchvision_names(tmp_path: Path, published_layout: dict[str, Tensor], name: str) -> None:
    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(published_layout, path)
    network = load_vgg19(path)
    torch.testing.assert_close(network.slice5[-2].weight, published_layout["features.28.weight"])
    torch.testing.assert_close(network.slice1[0].bias, published_layout["features.0.bias"])


def test_faults_are_one_line(tmp_path: Path, published_layout: dict[str, Tensor]) -> None:
    path = tmp_path / "vgg.safetensors"
    with pytest.raises(UserError, match="no such file"):
        load_vgg19(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="no state dict"):
        load_vgg19(path)
    partial = {k: v for k, v in published_layout.items() if k != "features.5.weight"}
    save_file(partial, path)
    with pytest.raises(UserError, match=r"features\.5\.weight"):
        load_vgg19(path)
    save_file(partial | {"features.5.weight": torch.zeros(1, 1, 3, 3)}, path)
    with pytest.raises(UserError, match=r"\(1, 1, 3, 3\), not \(128, 64, 3, 3\)"):
        load_vgg19(path)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("/tmp/never"),))  # type: ignore[return-value]


def test_code_in_a_weights_file_is_never_run(tmp_path: Path) -> None:
    path = tmp_path / "vgg.pth"
    torch.save({"features.0.weight": Bomb()}, path)
    with pytest.raises(UserError, match="refused to unpickle"):
        load_vgg19(path)
