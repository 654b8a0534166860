"""Face swap: where the source's face goes in the driving frame.

The mask is the face parser's probability of the chosen classes in the driving frame. The generator blends
there, at its bottleneck; outside the mask the driving frame's own features stay.
Source: SAFA (Wang et al., 2021), face swapping; MODEL.md, sections 5 (step 4) and 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from safa.config.inference import FACE_CLASS_NAMES, SwapConfig
from safa.errors import UserError
from safa.models.parsing import FaceParser, blend_mask
from safa.models.trunks.weights import read_weights
from safa.training.storage import check_weights


class SwapMask(Protocol):
    """Says where in driving images the source's face goes."""

    def of(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to masks (B, 1, M, M) in [0, 1]; 1 where the face goes."""
        ...


@dataclass(frozen=True)
class FaceMask:
    """A parser and what of it to use.

    Attributes:
        classes: numbers of the parser's classes.
        hard: 0 or 1 instead of probabilities.
    """

    parser: FaceParser
    classes: tuple[int, ...]
    hard: bool

    @torch.inference_mode()
    def of(self, image: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to masks (B, 1, 512, 512) in [0, 1]; 1 where the face goes."""
        return blend_mask(self.parser.probabilities(image), self.classes, hard=self.hard)


def load_face_mask(config: SwapConfig, device: str | torch.device = "cpu") -> FaceMask:
    """Read the face parser's weights.

    Raises:
        UserError: no weights are named, or the file is not of this network.
    """
    if config.weights is None:
        raise UserError(
            "mode swap needs the face parser's weights", "swap.weights", "Name a BiSeNet file of 19 classes."
        )
    parser = FaceParser()
    weights = read_weights(config.weights)
    check_weights(_needed(parser.state_dict()), _needed(weights), str(config.weights))
    parser.load_state_dict(dict(weights), strict=False)
    classes = tuple(FACE_CLASS_NAMES.index(name) for name in config.classes)
    return FaceMask(parser.to(device).eval(), classes, config.hard)


def _needed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without BatchNorm's counters of batches: some published files lack them, and inference has no use."""
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
