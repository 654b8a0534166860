"""Workers whose batches differ by a sample: gradients and losses are still those of the whole batch."""

from __future__ import annotations

from collections.abc import Callable

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
    batch = next(TrainingDataLoader(config, context).batches(0, 1))
    terms = stage.step([batch], torch.Generator().manual_seed(0))  # type: ignore[list-item]
    (network,) = stage.networks.values()
    gradients = {name: value.grad for name, value in network.named_parameters() if value.grad is not None}
    return terms, gradients


def test_workers_with_unequal_batches_average_to_the_whole_batch(make_config: MakeConfig) -> None:
    config = make_config("head", {"data.batch_size": None, "data.batch_total": 5})
    whole = _step(config, LocalContext())
    shares = [_step(config, Rank(rank, 3)) for rank in range(3)]  # of 2, 2 and 1 samples
    for number, expected in enumerate(whole):
        assert expected
        for name, value in expected.items():
            mean = torch.stack([share[number][name] for share in shares]).mean(dim=0)
            torch.testing.assert_close(mean, value, rtol=1e-4, atol=1e-6, msg=name)
