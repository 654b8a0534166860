"""The group context: gradients averaged, sums and texts shared. Two processes with gloo, no Ray."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from safa.errors import Terminated
from safa.training.context import GroupContext, LocalContext


def _worker(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    context = GroupContext(torch.device("cpu"))
    torch.manual_seed(rank)  # other first weights on each: rank 0's count
    network = nn.Linear(2, 1, bias=False)
    wrapped = context.wrap(network, all_parameters_used=True)
    sample = torch.tensor([[1.0, 0.0], [0.0, 3.0]])[rank]
    wrapped(sample).sum().backward()
    assert network.weight.grad is not None
    found = {
        "weight": network.weight.detach().flatten().tolist(),
        "gradient": network.weight.grad.flatten().tolist(),
        "sum": context.sum(torch.tensor([1.0, float(rank)])).tolist(),
        "texts": context.gather(f"from {rank}"),
    }
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_act_as_one(tmp_path: Path) -> None:
    mp.spawn(_worker, args=(tmp_path,), nprocs=2)  # type: ignore[no-untyped-call]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["gradient"] == [0.5, 1.5], "the mean of both workers' gradients"
    assert first["sum"] == [2.0, 1.0]
    assert first["texts"] == ["from 0", "from 1"]
    torch.manual_seed(0)
    assert first["weight"] == pytest.approx(nn.Linear(2, 1, bias=False).weight.flatten().tolist())


def test_first_interrupt_asks_second_ends() -> None:
    context = LocalContext()
    before = signal.getsignal(signal.SIGINT)
    with context.signals.listening():
        assert not context.stop_requested()
        os.kill(os.getpid(), signal.SIGINT)
        assert context.stop_requested()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_sigterm_ends_as_one() -> None:
    context = LocalContext()
    with context.signals.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        assert context.stop_requested()
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)


class _AskedContext(GroupContext):
    """Rank 1 alone is asked, at its third step; its steps take longer."""

    step = 0

    def _asked_to_stop(self) -> bool:
        return self.rank == 1 and self.step >= 3


def _stop_together(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    context = _AskedContext(torch.device("cpu"))
    while True:
        context.step += 1
        time.sleep(0.02 * (rank + 1))
        if context.stop_requested():
            break
    (folder / f"{rank}.json").write_text(str(context.step))
    dist.destroy_process_group()


@pytest.mark.slow
def test_all_of_a_group_stop_at_the_same_step(tmp_path: Path) -> None:
    mp.spawn(_stop_together, args=(tmp_path,), nprocs=2)  # type: ignore[no-untyped-call]
    first, second = (int((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second == 3, "1 and 2 steps between the first looks"


def test_alone_is_a_group_of_one() -> None:
    context, network = LocalContext(), nn.Linear(2, 1)
    assert context.wrap(network, all_parameters_used=True) is network
    values = torch.tensor([3.0])
    assert context.sum(values) is values
    assert context.gather("text") == ["text"]
