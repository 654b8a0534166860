"""Workers whose batches differ by a sample: gradients and losses are still those of the whole batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from safa.config.training import TrainConfig
from safa.training.context import LocalContext
from safa.training.dataloader import TrainingDataLoader
from safa.training.stages import make_stage

MakeConfig = Callable[..., TrainConfig]


class Rank(LocalContext):
    """A worker of a group, whose gradients are averaged here by hand."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__()
        self.rank, self.world_size = rank, world_size


def _step(config: TrainConfig, context: LocalContext) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Loss terms and gradients of the first step. Without BatchNorm's statistics, samples do not meet."""
    torch.manual_seed(config.seed)
    stage = make_stage(config, context)
    for network in stage.networks.values():
        network.eval()
    batches = list(TrainingDataLoader(config, context).batches(0, 1))
    terms = stage.step(batches, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    (network,) = stage.networks.values()
    gradients = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
    return terms, gradients


@pytest.mark.parametrize("accumulate", [1, 2])
def test_workers_with_unequal_batches_average_to_the_whole_batch(
    accumulate: int, make_config: MakeConfig
) -> None:
    shared = {"data.batch_size": None, "data.batch_total": 5}
    config = make_config("head", {**shared, "step.accumulate": accumulate})
    whole = _step(config, LocalContext())
    shares = [_step(config, Rank(rank, 3)) for rank in range(3)]  # of 2, 2 and 1 samples
    for number, expected in enumerate(whole):
        assert expected
        for name, value in expected.items():
            mean = torch.stack([share[number][name] for share in shares]).mean(dim=0)
            torch.testing.assert_close(mean, value, rtol=1e-4, atol=1e-6, msg=name)
