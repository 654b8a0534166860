"""Deterministic weights by parameter name: those with which the reference tensors were computed.

The rule stands in the README beside the reference tensors, section 1: a normal sample seeded by
(seed, crc32(name)), scaled by what the name says. All arithmetic in float32.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Floats = NDArray[np.float32]

# Keys that keep the module's own value.
_KEPT = re.compile(
    r"""num_batches_tracked$ | ^flame\.
    | ^(uvcoords|uvfaces|face_uvcoords|faces|uv_face_eye_mask|uv_face_mask)$
    | down\.weight$ | down_motion\.weight$ | ^blend_downsample\.weight$ | fuse_weight$ | ^(mean|std)$
    | ^encoder\.model\.classifier\.1\.""",
    re.VERBOSE,
)

_GAINS: tuple[tuple[str, float], ...] = (
    (r"^encoder\.model\.features\.0\.", 4.0),
    (r"^encoder\.model\.features\.", 1.25),
    (r"^predictor\.", math.sqrt(2)),
    (r"^jacobian\.", 0.15),
    (r"^dense_motion_network\.hourglass\.", math.sqrt(2)),
    (r"^dense_motion_network\.(mask|occlusion|occlusion1)\.", 3.0),
    (r"^(first|down_blocks|up_blocks|conv0\d|concat_conv)\..*(conv|0)\.weight$", math.sqrt(2)),
    (r"^final\.", 2.0),
    (r"^slice\d\.", math.sqrt(2)),
    (r"^(cp|ffm|conv_out|conv_out16|conv_out32)\.", 1.2),
)

_IDENTITY_JACOBIAN = (1, 0, 0, 1)
# Rows of the 3DMM's linear layer: shape and expression 150, pose 6, scale 1, translation 2.
_CODE_ROW_GAINS = np.repeat(np.array([1.0, 0.3, 1.0, 0.1], np.float32), [150, 6, 1, 2])


def is_filled(name: str) -> bool:
    """Whether the rule writes this state-dict key at all."""
    return _KEPT.search(name) is None


def value(name: str, shape: Sequence[int], seed: int) -> Floats:
    """The filled value of one state-dict key (named without the network's prefix)."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(name.encode())])
    z = np.random.Generator(np.random.PCG64(sequence)).standard_normal(tuple(shape), dtype=np.float32)
    if name.endswith("running_mean"):
        return np.float32(0.1) * z
    if name.endswith("running_var"):
        return np.float32(1) + np.float32(0.1) * np.abs(z)
    if name.endswith("bias"):
        bias = np.float32(0.02) * z
        if name == "jacobian.bias":
            bias = bias + np.tile(np.array(_IDENTITY_JACOBIAN, np.float32), len(bias) // 4)
        return bias
    if len(shape) >= 2:
        weight = z * np.float32(_gain(name) / math.sqrt(math.prod(shape[1:])))
        return weight * _CODE_ROW_GAINS[:, None] if name == "encoder.fc.weight" else weight
    return np.float32(1) + np.float32(0.1) * z


def fill(network: nn.Module, seed: int) -> None:
    """Overwrite a network's weights in place; keys outside the rule keep their values."""
    with torch.no_grad():
        for name, tensor in network.state_dict(keep_vars=True).items():
            if is_filled(name):
                tensor.copy_(torch.from_numpy(value(name, tensor.shape, seed)))


def _gain(name: str) -> float:
    return next((gain for pattern, gain in _GAINS if re.match(pattern, name)), 1.0)
