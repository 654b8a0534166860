"""Small matrices."""

from __future__ import annotations

import torch
from torch import Tensor


def inverse_2x2(matrix: Tensor) -> Tensor:
    """The inverse of matrices (..., 2, 2), by the formula: the adjugate over the determinant.

    ``torch.linalg.inv`` knows no bfloat16, waits for the device, and exports to no ONNX graph. Half precision
    is computed in float32, and stays it. A singular matrix has an inverse of infinities and NaN.
    """
    wide = matrix.to(torch.promote_types(matrix.dtype, torch.float32))
    # (..., 2, 2) -> (..., 4) -> four of (...)
    a, b, c, d = wide.flatten(-2).unbind(-1)
    adjugate = torch.stack([d, -b, -c, a], dim=-1)  # (..., 4)
    determinant = (a * d - b * c).unsqueeze(-1)  # (..., 1)
    return (adjugate / determinant).reshape(matrix.shape)  # (..., 4) -> (..., 2, 2)
