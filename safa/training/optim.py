"""Optimisers, and the exponential moving average (EMA) of weights that inference may use."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Adam

from safa.config.training import StepConfig
from safa.weights import trained_parameters


def make_adam(network: nn.Module, lr: float, betas: tuple[float, float], step: StepConfig) -> Adam:
    """Adam (Kingma and Ba, 2015) over everything in the network that learns. ``initial_lr`` keeps ``lr``."""
    adam = Adam(trained_parameters(network).values(), lr=lr, betas=betas, fused=step.fused_adam)
    for group in adam.param_groups:
        group["initial_lr"] = lr
    return adam


def scale_learning_rates(optimisers: Mapping[str, Adam], factor: float) -> None:
    """Set every learning rate to ``factor`` times the one the optimiser was made with."""
    for adam in optimisers.values():
        for group in adam.param_groups:
            group["lr"] = group["initial_lr"] * factor


def clip_gradients(network: nn.Module, largest_norm: float | None) -> None:
    """Scale the network's gradients down to ``largest_norm``, if they are above it."""
    if largest_norm is not None:
        nn.utils.clip_grad_norm_(trained_parameters(network).values(), largest_norm)


class EMA:
    """Exponential moving average of a model's parameters; BatchNorm statistics are copied as they are.

    After step n the share kept is min(decay, (1 + n) / (10 + n)), so that it follows quickly at first.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay
        self._statistics = [
            (mine, current)
            for a, b in zip(self.model.modules(), model.modules(), strict=True)
            if isinstance(a, _BatchNorm)
            for mine, current in zip(a.buffers(), b.buffers(), strict=True)
        ]
        self._kept: list[Tensor] = list(self.model.parameters())
        self._current: list[Tensor] = list(model.parameters())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the model after ``step`` finished steps."""
        keep = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._kept, self._current, 1 - keep)
        for mine, current in self._statistics:
            mine.copy_(current)
