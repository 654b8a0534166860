"""Activation checkpoints: what a block computes inside is computed again in the backward pass, not kept.

A step then needs the memory of the blocks' inputs and of one block, and takes the time of one more forward
pass. Gradients are the same bits. Source: Training Deep Nets with Sublinear Memory Cost (Chen et al., 2016).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from safa.models.attention import ContextualAttention
from safa.models.backbones.efficientnet_lite import EfficientNetLiteFeatures
from safa.models.backbones.mobilenet_v2 import InvertedResidual
from safa.models.backbones.vgg19 import Vgg19Features
from safa.models.blocks import DownBlock, ResBlock, SameBlock, UpBlock
from safa.models.generator import GadeUpBlock

# None of the discriminator: the generator's step calls it with other weights, gone before the backward pass.
BLOCKS = (
    DownBlock,
    ResBlock,
    SameBlock,
    UpBlock,
    GadeUpBlock,
    ContextualAttention,
    InvertedResidual,
    Vgg19Features,
    EfficientNetLiteFeatures,
)


def checkpoint_activations(network: nn.Module) -> None:
    """Make the blocks of a network keep their inputs alone in training. Names and weights stay."""
    for module in network.modules():
        if isinstance(module, BLOCKS) and not isinstance(module, Checkpointed):
            block: nn.Module = module
            block.__class__ = _checkpointed(block.__class__)


class Checkpointed(nn.Module):
    """Stands before a block's class."""

    def forward(self, *inputs: Any) -> Any:
        """Compute what the block computes, and again when its gradients are asked for."""
        if not torch.is_grad_enabled():
            return super().forward(*inputs)
        contexts = partial(_contexts, self)
        # Nothing in a block is drawn at random.
        return checkpoint(
            super().forward, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
        )


_CLASSES: dict[str, type[nn.Module]] = {}


def _checkpointed(block: type[nn.Module]) -> type[nn.Module]:
    """A class and not a hook on the module, so that copies of a network belong to themselves."""
    name = f"Checkpointed{block.__name__}"
    if name not in _CLASSES:
        _CLASSES[name] = type(name, (Checkpointed, block), {})
    return _CLASSES[name]


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Around the forward pass, and around its repetition."""
    return nullcontext(), _statistics_kept(block)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """BatchNorm has counted this batch already: normalise by it again, and leave the running statistics."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.sub_(1)
