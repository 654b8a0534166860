"""What the training loop needs to know about where it runs; the loop itself knows nothing of Ray.

Two implementations live here: one process alone, and one process of a ``torch.distributed`` group. Ray Train
sets up such a group; ``pipelines/train.py`` adds Ray's reporting to it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class TrainContext(Protocol):
    """One worker's view of the group it trains in."""

    @property
    def rank(self) -> int:
        """0 .. world_size - 1; rank 0 writes files."""
        ...

    @property
    def world_size(self) -> int:
        """Number of workers."""
        ...

    @property
    def device(self) -> torch.device:
        """Where this worker's networks and batches live."""
        ...

    def wrap(self, network: nn.Module, *, all_parameters_used: bool) -> nn.Module:
        """The network on the device, with gradients averaged over the group in every backward pass."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over the group; on every rank. A barrier."""
        ...

    def gather(self, text: str) -> list[str]:
        """Every rank's text, on every rank. A barrier."""
        ...

    def report(self, metrics: Mapping[str, float]) -> None:
        """Pass metrics to the supervisor of the run. Called by all ranks at the same steps."""
        ...

    def stop_requested(self) -> bool:
        """Whether the run should save its state and end before it is complete; alike on every rank."""
        ...


class LocalContext:
    """Train in this process alone, on the first GPU if asked.

    While ``listening`` is open, the first SIGINT or SIGTERM asks the loop to end after the step at hand; a
    second one ends at once.
    """

    rank = 0
    world_size = 1

    def __init__(self, *, use_gpu: bool = False) -> None:
        self.device = torch.device("cuda:0" if use_gpu else "cpu")
        self._stop = False

    def wrap(self, network: nn.Module, *, all_parameters_used: bool) -> nn.Module:
        """See ``TrainContext``."""
        del all_parameters_used  # nothing is averaged
        return network.to(self.device)

    def sum(self, values: Tensor) -> Tensor:
        """See ``TrainContext``."""
        return values

    def gather(self, text: str) -> list[str]:
        """See ``TrainContext``."""
        return [text]

    def report(self, metrics: Mapping[str, float]) -> None:
        """See ``TrainContext``: this run has no supervisor."""

    def stop_requested(self) -> bool:
        """See ``TrainContext``."""
        return self._stop

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take interrupts as requests to stop; the handlers from before come back afterwards."""

        def request(number: int, frame: FrameType | None) -> None:
            del number, frame
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True

        before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class GroupContext:
    """One worker of an initialised ``torch.distributed`` process group (gloo on CPUs, nccl on GPUs)."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    def wrap(self, network: nn.Module, *, all_parameters_used: bool) -> nn.Module:
        """See ``TrainContext``. BatchNorm shares its statistics between GPUs (SyncBatchNorm knows no CPU)."""
        network = network.to(self.device)
        if self.world_size == 1:
            return network
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(
            network,
            device_ids=[self.device] if on_gpu else None,
            # Running statistics are not read in train mode; with SyncBatchNorm they agree anyway, without it
            # rank 0's are the ones that are saved. Broadcasting them before every pass would be waste.
            forward_sync_buffers=False,
            find_unused_parameters=not all_parameters_used,
            gradient_as_bucket_view=True,
        )

    def sum(self, values: Tensor) -> Tensor:
        """See ``TrainContext``."""
        total = values.to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(values.device)

    def gather(self, text: str) -> list[str]:
        """See ``TrainContext``."""
        texts = [""] * self.world_size
        dist.all_gather_object(texts, text)
        return texts

    def report(self, metrics: Mapping[str, float]) -> None:
        """See ``TrainContext``: a bare process group has no supervisor."""

    def stop_requested(self) -> bool:
        """See ``TrainContext``: a group is ended by whoever started it; its last checkpoint stays."""
        return False
