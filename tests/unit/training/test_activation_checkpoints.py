"""Activation checkpoints: less is kept, and every number is the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safa.config.training import TrainConfig
from safa.data.sampler import FrameBatch, PairBatch
from safa.models.safa import Safa
from safa.training.activation_checkpoints import Checkpointed, checkpoint_activations
from safa.training.context import LocalContext
from safa.training.stages import make_stage


def trained(config: TrainConfig) -> tuple[dict[str, Tensor], int]:
    """Weights and statistics after two steps, and the bytes that the second one kept for backward."""
    torch.manual_seed(0)
    training: Any = make_stage(config, LocalContext())
    training.train_mode()
    rng = torch.Generator().manual_seed(1)
    images, points = torch.rand(2, 2, 3, 32, 32, generator=rng), torch.rand(2, 2, 68, 2, generator=rng) * 32
    pairs, frames = PairBatch(("a", "b"), *images, *points), FrameBatch(("a", "b"), images[0], points[0])
    batch = pairs if config.stage.kind == "full" else frames
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    training.step([batch], torch.Generator().manual_seed(2))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        training.step([batch], torch.Generator().manual_seed(3))
    state = {
        f"{name}/{key}": value
        for name, network in training.networks.items()
        for key, value in network.state_dict().items()
    }
    return state, sum(kept.values())


@pytest.mark.parametrize("kind", ["head", "full"])
def test_numbers_are_the_same_and_less_is_kept(make_config: Callable[..., TrainConfig], kind: str) -> None:
    settings = [make_config(kind, {"step.activation_checkpoints": on}) for on in (False, True)]
    (plain, much), (again, less) = map(trained, settings)
    torch.testing.assert_close(again, plain, atol=0, rtol=0)
    assert any("num_batches_tracked" in name and int(value) > 0 for name, value in plain.items())
    assert less < 0.9 * much


def test_copies_belong_to_themselves(model: Safa) -> None:
    """Else an average, or a model that is folded, would compute with the weights of the original."""
    checkpoint_activations(model)
    assert sum(isinstance(module, Checkpointed) for module in model.modules()) > 10
    image = torch.rand(1, 3, model.config.image_size, model.config.image_size)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        before = model.generator.encode(image)
        for module in model.generator.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.zero_()
        torch.testing.assert_close(copied.generator.encode(image), before, atol=0, rtol=0)
