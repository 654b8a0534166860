"""Half precision is for convolutions. Positions, renders and sums keep float32 at least.

bfloat16 has 8 bits: a position in [-1, 1] would be off by up to half a pixel of 256, and a mean would stand
still once it is large. Under ``torch.autocast`` the code that computes such things therefore says so itself.
"""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(like: Tensor) -> torch.autocast:
    """Within this context autocast is off, on the device of ``like``."""
    return torch.autocast(like.device.type, enabled=False)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
