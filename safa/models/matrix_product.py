"""Batched matrix products by the faster of the two libraries that torch brings along on a CPU.

torch multiplies float32 matrices by MKL, which runs at half of the machine's rate on AMD's processors; its
convolutions run by oneDNN, at full rate on all. A matrix product is a convolution with a 1 x 1 kernel.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from torch import Tensor


def matrix_product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` with gradients: (B, M, K) and (B, K, N) to (B, M, N)."""
    plain = a.device.type != "cpu" or a.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
    if plain or _is_exporting():  # a loop over the batch would fix its length
        return a @ b
    products = [
        # weight (M, K) -> (M, K, 1, 1) and image (K, N) -> (1, K, N, 1) to (1, M, N, 1)
        F.conv2d(columns[None, :, :, None], rows[:, :, None, None])
        for rows, columns in zip(a, b, strict=True)
    ]
    return torch.cat(products).squeeze(-1)  # B times (1, M, N, 1) -> (B, M, N, 1) -> (B, M, N)


def _is_exporting() -> bool:
    """Whether an ONNX graph is being made. Asked of a module that is there: importing it takes 0.14 s."""
    return "torch.onnx" in sys.modules and torch.onnx.is_in_onnx_export()
