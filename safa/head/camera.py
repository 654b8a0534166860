"""From the head's metres to the screen."""

from __future__ import annotations

import torch
from torch import Tensor


def weak_perspective(points: Tensor, scale: Tensor, translation: Tensor) -> Tensor:
    """``(x, y, z) -> (s (x + tx), -s (y + ty), -s z)`` for points (B, N, 3).

    y and z change sign: on the screen y points down, and z grows away from the viewer.

    Args:
        scale: (B, 1); 10 makes 0.1 m reach from the centre to the border.
        translation: (B, 2), metres.
    """
    x, y, z = points.unbind(-1)
    tx, ty = translation.unbind(-1)
    return torch.stack([scale * (x + tx[:, None]), -scale * (y + ty[:, None]), -scale * z], dim=-1)
