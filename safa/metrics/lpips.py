"""LPIPS: learned perceptual distance between images (Zhang et al., CVPR 2018), version 0.1 on AlexNet."""

from __future__ import annotations

from importlib import resources

import torch
from torch import Tensor, nn

from safa.files import Location, shown
from safa.weights import load_weights, read_weights

CHANNELS = (64, 192, 384, 256, 256)  # of the five ReLUs
LAYERS = (1, 4, 7, 9, 11)  # their numbers in torchvision's ``features``
# The network's own normalisation, of images in [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
UNIT_EPSILON = 1e-10
MIN_SIZE = 31  # px; smaller images vanish in the poolings


class Lpips(nn.Module):
    """AlexNet under torchvision's names, with one weight per channel of five of its layers."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = _alexnet_features()
        self.weights = nn.ParameterList(nn.Parameter(torch.ones(1, c, 1, 1)) for c in CHANNELS)
        self.register_buffer("shift", torch.tensor(SHIFT).reshape(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).reshape(1, 3, 1, 1))

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Learned perceptual image patch similarity: 0 (equal) upwards, lower is better. No unit.

        Zhang et al., 2018, version 0.1 with AlexNet: squared differences of its five ReLU layers, each
        scaled to unit length over channels, weighted per channel, averaged over positions, summed over
        layers. Images go in at the model's own size, not enlarged.

        Args:
            prediction, target: (F, 3, H, W) in [0, 1]; either may be (1, 3, H, W).
        """
        distance = prediction.new_zeros(())
        for x, y, weight in zip(self._layers(prediction), self._layers(target), self.weights, strict=True):
            difference = (_unit(x) - _unit(y)).square() * weight
            distance = distance + difference.sum(dim=1).mean(dim=(1, 2))
        return distance.double()

    def _layers(self, image: Tensor) -> list[Tensor]:
        x, features = (image * 2 - 1 - self.shift) / self.scale, []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in LAYERS:
                features.append(x)
        return features


def load_lpips(path: Location) -> Lpips:
    """Read AlexNet's ImageNet weights from a file; the channel weights come with torchmetrics.

    Raises:
        UserError: the file cannot be read, or is not torchvision's AlexNet.
    """
    network = Lpips()
    prefix = "features."  # the file's classifier is not needed
    weights = read_weights(path)
    features = {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}
    load_weights(network.features, features, shown(path))
    packaged = resources.files("torchmetrics.functional.image").joinpath("lpips_models/alex.pth")
    with resources.as_file(packaged) as file:
        linear = read_weights(file)
    for layer, weight in enumerate(network.weights):
        weight.data.copy_(linear[f"lin{layer}.model.1.weight"])
    return network.eval().requires_grad_(False)


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True).sqrt() + UNIT_EPSILON)


def _alexnet_features() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    for cin, cout in ((192, 384), (384, 256), (256, 256)):
        layers += [nn.Conv2d(cin, cout, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)
