"""VGG19 up to relu5_1: the features of the perceptual loss.

Source: Simonyan and Zisserman (2015), configuration E; the choice of layers is that of Johnson et al. (2016).
docs/model.md, section 7. Layers keep the number that they have in torchvision's ``features``, so that its
weights load by name.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from safa.files import Location, shown
from safa.weights import load_layers, read_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Output channels of the convolutions; "pool" halves the size. Every convolution is followed by a ReLU.
_LAYERS: tuple[int | str, ...] = (
    *(64, 64, "pool"),
    *(128, 128, "pool"),
    *(256, 256, 256, 256, "pool"),
    *(512, 512, 512, 512, "pool"),
    512,
)
_SLICE_ENDS = (1, 6, 11, 20, 29)  # index of relu1_1, relu2_1, relu3_1, relu4_1, relu5_1
SMALLEST_INPUT = 16  # px: four poolings have to leave something


class Vgg19Features(nn.Module):
    """Images (B, 3, H, W) in [0, 1] to five feature maps, relu1_1 to relu5_1; it is never trained.

    Map i is (B, c_i, H/2^i, W/2^i) with c = 64, 128, 256, 512, 512.
    """

    slice1: nn.Sequential
    slice2: nn.Sequential
    slice3: nn.Sequential
    slice4: nn.Sequential
    slice5: nn.Sequential

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(IMAGENET_MEAN).reshape(1, 3, 1, 1))  # (3,) -> (1, 3, 1, 1)
        self.std = nn.Parameter(torch.tensor(IMAGENET_STD).reshape(1, 3, 1, 1))  # (3,) -> (1, 3, 1, 1)
        first = 0
        modules = _feature_modules()
        for number, end in enumerate(_SLICE_ENDS, start=1):
            part = nn.Sequential()
            for index in range(first, end + 1):
                part.add_module(str(index), modules[index])
            setattr(self, f"slice{number}", part)
            first = end + 1
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        if min(image.shape[-2:]) < SMALLEST_INPUT:
            raise ValueError(
                f"VGG19 needs images of {SMALLEST_INPUT} px at least, not {tuple(image.shape[-2:])}"
            )
        out = (image - self.mean) / self.std
        features = []
        for part in (self.slice1, self.slice2, self.slice3, self.slice4, self.slice5):
            out = part(out)
            features.append(out)
        return tuple(features)


def _feature_modules() -> list[nn.Module]:
    modules: list[nn.Module] = []
    channels = 3
    for layer in _LAYERS:
        if isinstance(layer, int):
            modules += [nn.Conv2d(channels, layer, 3, padding=1), nn.ReLU()]
            channels = layer
        else:
            modules.append(nn.MaxPool2d(2))
    return modules


def load_vgg19(path: Location) -> Vgg19Features:
    """VGG19 with ImageNet weights from a state dict in torchvision's layout (``features.0.weight``, ...).

    The file is ``.safetensors`` or ``.pth``. The classifier and the layers after relu5_1 may be absent.

    Raises:
        UserError: the file is missing, is no state dict, or a layer is absent or of another shape.
    """
    network = Vgg19Features()
    slices = [name for name in network.state_dict() if name.startswith("slice")]
    load_layers(
        *(network, {name: "features." + name.partition(".")[2] for name in slices}),
        *(read_weights(path), shown(path)),
        among=" in the VGG19 weights",
        if_absent="Give torchvision's vgg19 state dict.",
        if_misfit="Is it VGG19?",
    )
    return network.eval()
