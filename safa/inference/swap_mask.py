"""Face swap: the mask that says where in the driving frame the source's face goes.

The mask is the face parser's probability of the chosen classes in the driving frame, or, without a parser,
the face of the 3D head that is fitted to it. The generator blends there, at its bottleneck; outside the mask
the driving frame's own features stay.
Source: SAFA (Wang et al., 2021), face swapping; docs/model.md, sections 5 (step 4) and 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from safa.config.inference import FACE_CLASS_NAMES, WHOLE_FACE, FaceClass, SwapConfig
from safa.decimals import whole
from safa.errors import UserError
from safa.files import shown
from safa.geometry.grids import warp
from safa.models.face_parser import FaceParser, blend_mask
from safa.models.tdmm import Tdmm
from safa.precision import full_precision
from safa.weights import check_weights, read_weights

HARD_THRESHOLD = 0.5  # of a hard mask


# Names of classes that come in pairs.
GROUPS: dict[str, tuple[FaceClass, ...]] = {
    "brows": ("left_brow", "right_brow"),
    "eyes": ("left_eye", "right_eye"),
    "ears": ("left_ear", "right_ear"),
    "lips": ("upper_lip", "lower_lip"),
}


class SwapMask(Protocol):
    """Decides where in driving images the source's face goes."""

    def of(self, image: Tensor) -> Tensor:
        """Return masks (B, 1, M, M) in [0, 1] of images (B, 3, H, W) in [0, 1]; 1 where the face goes."""
        ...


@dataclass(frozen=True)
class FaceMask:
    """The face parser's probability of some of its classes.

    Attributes:
        classes: numbers of the parser's classes that are swapped.
        hard: threshold the mask to 0 or 1.
    """

    parser: FaceParser = field(repr=False)
    classes: tuple[int, ...]
    hard: bool

    @torch.inference_mode()
    def of(self, image: Tensor) -> Tensor:
        """Return masks (B, 1, 512, 512) in [0, 1] of images (B, 3, H, W) in [0, 1]; 1 where the face goes."""
        return blend_mask(self.parser.probabilities(image), self.classes, hard=self.hard)


@dataclass(frozen=True)
class HeadOutline:
    """The face of the fitted 3D head, eyes included: a mask that needs no weights.

    Attributes:
        hard: threshold the mask to 0 or 1.
    """

    tdmm: Tdmm = field(repr=False)
    hard: bool = False

    @torch.inference_mode()
    def of(self, image: Tensor) -> Tensor:
        """Return masks (B, 1, S, S) in [0, 1] of images (B, 3, S, S) in [0, 1]."""
        code = self.tdmm.estimate(image).code
        with full_precision(image):
            side = self.tdmm.render_side(self.tdmm.geometry(code))
            texels = self.tdmm.uv_face_eye_mask.expand(len(image), -1, -1, -1)
            mask = warp(texels, side.uv.permute(0, 2, 3, 1)) * side.alpha
        return (mask >= HARD_THRESHOLD).to(mask.dtype) if self.hard else mask


def load_mask(config: SwapConfig, tdmm: Tdmm, device: str | torch.device = "cpu") -> SwapMask:
    """Make the mask that the settings describe.

    Args:
        tdmm: the 3D head model, on the device; it draws the mask where no parser is named.

    Raises:
        UserError: the file holds no face parser.
    """
    if config.weights is None:
        return HeadOutline(tdmm, config.hard)
    parser = FaceParser()
    weights = read_weights(config.weights)
    check_weights(_without_counters(parser.state_dict()), _without_counters(weights), shown(config.weights))
    parser.load_state_dict(dict(weights), strict=False)
    classes = tuple(FACE_CLASS_NAMES.index(name) for name in config.classes or WHOLE_FACE)
    return FaceMask(parser.to(device).eval(), classes, config.hard)


def _without_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop BatchNorm's counters of batches: some published files lack them, and inference needs none."""
    return {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}


def parse_classes(named: Any) -> tuple[FaceClass, ...]:
    """Read classes of the face parser.

    Args:
        named: a list of names, or a text such as ``skin,nose,eyes`` or, as upstream writes it, ``1,10,4,5``.

    Raises:
        UserError: the parser has no such class, or these are no names.
    """
    if not isinstance(named, Iterable):
        what = f"are of type {type(named).__name__}"
        raise UserError(what, "classes", 'Give names, as in ("skin", "nose").')
    words = named.split(",") if isinstance(named, str) else map(str, named)
    classes: list[FaceClass] = []
    for word in (word.strip() for word in words):
        if word in GROUPS:
            classes += GROUPS[word]
        elif (number := whole(word)) is not None and number < len(FACE_CLASS_NAMES):
            classes.append(FACE_CLASS_NAMES[number])
        elif word in FACE_CLASS_NAMES:
            classes.append(FACE_CLASS_NAMES[FACE_CLASS_NAMES.index(word)])
        else:
            known = ", ".join([*GROUPS, *FACE_CLASS_NAMES])
            raise UserError(f"no class {word!r}", "classes", f"Use any of {known}.")
    return tuple(dict.fromkeys(classes))
