"""Contextual attention against a twin written with loops, straight from the paper's equations."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from safa.config.model import AttentionConfig
from safa.models.attention import ContextualAttention

Floats = NDArray[np.float64]


def pixel(image: Floats, y: int, x: int) -> Floats:
    """One pixel (C,), zero outside."""
    inside = 0 <= y < image.shape[1] and 0 <= x < image.shape[2]
    return image[:, y, x] if inside else np.zeros(image.shape[0])


def patch(image: Floats, top: int, left: int, size: int) -> Floats:
    return np.stack([[pixel(image, top + i, left + j) for j in range(size)] for i in range(size)])


def add_diagonal_neighbours(scores: Floats) -> Floats:
    out = np.zeros_like(scores)
    for i, j in product(range(scores.shape[0]), range(scores.shape[1])):
        for d in (-1, 0, 1):
            if 0 <= i + d < scores.shape[0] and 0 <= j + d < scores.shape[1]:
                out[i, j] += scores[i + d, j + d]
    return out


def naive_attention(f: Floats, b: Floats, m: Floats, scale: float = 10.0) -> Floats:
    """One sample: f and b (C, H, W), m (1, H, W); rate 2, 3 x 3 keys, 3 x 3 fusion."""
    height, width = f.shape[1:]
    h, w = height // 2, width // 2
    places = list(product(range(h), range(w)))  # row-major
    keys = [patch(b[:, ::2, ::2], y - 1, x - 1, 3) for y, x in places]
    queries = [patch(f[:, ::2, ::2], y - 1, x - 1, 3) for y, x in places]
    scores = np.array(
        [[(key * query).sum() / math.sqrt((key**2 + 1e-4).sum()) for query in queries] for key in keys]
    )
    column_major = [y * w + x for x in range(w) for y in range(h)]
    scores = add_diagonal_neighbours(scores)[np.ix_(column_major, column_major)]
    back = np.argsort(column_major)
    scores = add_diagonal_neighbours(scores)[np.ix_(back, back)]

    allowed = np.array([patch(m[:, ::2, ::2], y - 1, x - 1, 3).mean() for y, x in places])
    logits = scores * allowed[:, None] * scale
    weights = np.exp(logits - logits.max(axis=0))
    weights = weights / weights.sum(axis=0) * allowed[:, None]

    out = np.zeros_like(f)
    for (query, (qy, qx)), (key, (ky, kx)) in product(enumerate(places), enumerate(places)):
        for i, j in product(range(4), range(4)):
            y, x = 2 * qy - 1 + i, 2 * qx - 1 + j
            if 0 <= y < height and 0 <= x < width:
                out[:, y, x] += weights[key, query] * pixel(b, 2 * ky - 1 + i, 2 * kx - 1 + j) / 4
    return out


@pytest.mark.parametrize("size", [(8, 8), (4, 8)])
def test_agrees_with_loops(size: tuple[int, int], rng: torch.Generator) -> None:
    f = torch.randn(2, 3, *size, generator=rng, dtype=torch.float64)
    b = torch.randn(2, 3, *size, generator=rng, dtype=torch.float64)
    m = torch.rand(2, 1, *size, generator=rng, dtype=torch.float64)
    m = torch.where(m > 0.3, m, 0)
    layer = ContextualAttention(AttentionConfig()).double()
    for foreground, background in ((f, b), (b, b)):
        out = layer(foreground, background, m)
        for sample in range(2):
            expected = naive_attention(
                foreground[sample].numpy(), background[sample].numpy(), m[sample].numpy()
            )
            np.testing.assert_allclose(out[sample].numpy(), expected, atol=1e-10)


@pytest.mark.parametrize(("rate", "kernel", "fuse"), [(1, 3, 3), (3, 2, 3), (2, 5, 5), (2, 3, 1)])
def test_other_sizes_agree_with_patches(rate: int, kernel: int, fuse: int, rng: torch.Generator) -> None:
    """Twin: every patch cut out, multiplied and laid back; outputs and gradients."""
    f, b = (
        torch.randn(2, 3, 12, 18, generator=rng, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )
    m = torch.rand(2, 1, 12, 18, generator=rng, dtype=torch.float64)
    config = AttentionConfig(rate=rate, kernel_size=kernel, fuse_kernel=fuse)
    out, twin = ContextualAttention(config).double()(f, b, m), attention_of_patches(f, b, m, config)
    torch.testing.assert_close(out, twin, atol=1e-10, rtol=0)
    weights = torch.randn(out.shape, generator=rng, dtype=torch.float64)
    ours = torch.autograd.grad((out * weights).sum(), (f, b))
    theirs = torch.autograd.grad((twin * weights).sum(), (f, b))
    torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=1e-8)


def attention_of_patches(
    f: torch.Tensor, b: torch.Tensor, m: torch.Tensor, c: AttentionConfig
) -> torch.Tensor:
    height, width = f.shape[-2:]
    h, w = height // c.rate, width // c.rate

    def patches(x: torch.Tensor, size: int, stride: int) -> torch.Tensor:
        total = size - stride
        first, last = total // 2, total - total // 2
        return F.unfold(F.pad(x, (first, last, first, last)), size, stride=stride)

    def small(x: torch.Tensor) -> torch.Tensor:
        return patches(x[..., :: c.rate, :: c.rate], c.kernel_size, 1)

    keys = small(b)
    scores = (keys / (keys.square() + 1e-4).sum(1, keepdim=True).sqrt()).transpose(1, 2) @ small(f)
    eye = torch.eye(c.fuse_kernel, dtype=f.dtype)[None, None]
    before = (c.fuse_kernel - 1) // 2
    around = (before, c.fuse_kernel - 1 - before) * 2
    for rows, columns in ((h, w), (w, h)):
        scores = F.conv2d(F.pad(scores[:, None], around), eye)[:, 0]
        scores = scores.unflatten(2, (rows, columns)).unflatten(1, (rows, columns))
        scores = scores.permute(0, 2, 1, 4, 3).flatten(3).flatten(1, 2)
    allowed = small(m).mean(1).unsqueeze(-1)
    attention = F.softmax(scores * allowed * c.softmax_scale, dim=1) * allowed
    laid = patches(b, 2 * c.rate, c.rate) @ attention
    first = c.rate // 2
    padded = F.fold(laid, (height + c.rate, width + c.rate), 2 * c.rate, stride=c.rate)
    return padded[..., first : first + height, first : first + width] / 4


def test_gradients(rng: torch.Generator) -> None:
    f, b = (torch.randn(1, 2, 4, 4, generator=rng, dtype=torch.float64, requires_grad=True) for _ in range(2))
    m = torch.rand(1, 1, 4, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    layer = ContextualAttention(AttentionConfig(softmax_scale=0.5)).double()
    assert torch.autograd.gradcheck(layer, (f, b, m))


def test_nothing_is_copied_from_where_the_mask_is_zero(rng: torch.Generator) -> None:
    x = torch.randn(1, 2, 8, 8, generator=rng)
    out = ContextualAttention(AttentionConfig())(x, x, torch.zeros(1, 1, 8, 8))
    assert out.abs().max() == 0


def test_no_sharing_between_samples(rng: torch.Generator) -> None:
    x = torch.randn(4, 3, 8, 8, generator=rng)
    m = torch.rand(4, 1, 8, 8, generator=rng)
    layer = ContextualAttention(AttentionConfig())
    together = layer(x, x, m)
    alone = torch.cat([layer(x[i : i + 1], x[i : i + 1], m[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone)


def test_refuses_a_size_that_does_not_divide() -> None:
    x = torch.zeros(1, 1, 7, 8)
    with pytest.raises(ValueError, match="rate 2"):
        ContextualAttention(AttentionConfig())(x, x, x)
