from __future__ import annotations

import torch

from safa.geometry.matrices import inverse_2x2


def test_agrees_with_linear_algebra() -> None:
    matrix = torch.randn(3, 5, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(inverse_2x2(matrix), torch.linalg.inv(matrix), atol=1e-10, rtol=1e-10)
    matrix.requires_grad_()
    assert torch.autograd.gradcheck(inverse_2x2, matrix[0])


def test_half_precision_is_inverted_in_single_precision() -> None:
    matrix = torch.tensor([[1.0, 0.5], [0.25, 2.0]], dtype=torch.bfloat16)
    inverse = inverse_2x2(matrix)
    assert inverse.dtype == torch.float32
    torch.testing.assert_close(inverse, torch.linalg.inv(matrix.float()))
