from __future__ import annotations

import torch

from safa.models.matrix_product import matrix_product


def test_product_and_gradients_are_those_of_matmul() -> None:
    rng = torch.Generator().manual_seed(0)
    a = torch.randn(2, 40, 70, generator=rng, requires_grad=True)
    b = torch.randn(2, 70, 50, generator=rng, requires_grad=True)
    ours, twin = matrix_product(a, b), a @ b
    torch.testing.assert_close(ours, twin, atol=1e-4, rtol=1e-5)
    weights = torch.randn(ours.shape, generator=rng)
    torch.testing.assert_close(
        torch.autograd.grad((ours * weights).sum(), (a, b)),
        torch.autograd.grad((twin * weights).sum(), (a, b)),
        atol=1e-4,
        rtol=1e-5,
    )


def test_other_types_stay_what_they_are() -> None:
    a = torch.randn(1, 3, 4, dtype=torch.float64)
    assert matrix_product(a, a.transpose(1, 2)).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert matrix_product(a.float(), a.float().transpose(1, 2)).dtype == torch.bfloat16
