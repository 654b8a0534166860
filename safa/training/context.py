"""What the training loop needs to know about where it runs; the loop itself knows nothing of Ray.

Two implementations live here: one process alone, and one process of a ``torch.distributed`` group. Ray Train
sets up such a group; ``pipelines/train.py`` adds Ray's reporting to it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from safa.errors import Terminated, UserError

LOOK_EVERY = 1.0  # seconds between two looks of a group at whether it should stop
MOST_STEPS = 50  # between two looks, should steps suddenly take longer


class WorkerError(UserError):
    """An error that one worker alone has. The others wait for it, so their supervisor has to end them."""


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
        """Whether the run should save its state and end before it is complete; alike on every rank.

        Called once after every step, on every rank.
        """
        ...

    def save_requested(self) -> bool:
        """Whether the state should be saved now, since a machine is about to go; alike on every rank.

        Called after ``stop_requested``, whose looks it shares.
        """
        ...


class StopSignals:
    """The first SIGINT or SIGTERM in ``listening`` asks for an orderly end; a second one ends at once.

    Attributes:
        number: the signal that came, if any.
    """

    number: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take signals as requests; the handlers from before come back afterwards. In the main thread only.

        Raises:
            KeyboardInterrupt: at a second signal; ``Terminated`` if it is SIGTERM.
        """

        def request(number: int, frame: FrameType | None) -> None:
            del frame
            if self.number is not None:
                raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
            self.number = number

        before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class LocalContext:
    """Train in this process alone, on the first GPU if asked.

    While ``signals.listening`` is open, the first SIGINT or SIGTERM asks the loop to end after the step at
    hand; a second one ends at once.
    """

    rank = 0
    world_size = 1

    def __init__(self, *, use_gpu: bool = False) -> None:
        self.device = torch.device("cuda:0" if use_gpu else "cpu")
        self.signals = StopSignals()

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
        return self.signals.number is not None

    def save_requested(self) -> bool:
        """See ``TrainContext``: nobody gives notice."""
        return False


class GroupContext:
    """One worker of an initialised ``torch.distributed`` process group (gloo on CPUs, nccl on GPUs).

    A request to stop reaches one worker before another, so that they have to agree on the step. That is a
    sum over the group, which takes the host's wait for the device; a look after every step would cost some
    per cent of a short step on a GPU. So the group looks about once in ``LOOK_EVERY`` seconds. How many steps
    that is follows from times that are summed with the request, and is the same on every rank.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self._interval = self._left = 1  # steps between looks, and to the next one
        self._looked = time.monotonic()
        self._save = False

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
        """See ``TrainContext``."""
        self._save = False
        self._left -= 1
        if self._left > 0:
            return False
        now = time.monotonic()
        asked, seconds = self.sum(torch.tensor([self._asked_to_stop(), now - self._looked])).tolist()
        step = max(seconds / self.world_size / self._interval, 1e-6)
        self._interval = self._left = min(max(int(LOOK_EVERY / step), 1), 2 * self._interval, MOST_STEPS)
        self._looked = now
        self._save = self._machine_goes()
        return bool(asked > 0)

    def save_requested(self) -> bool:
        """See ``TrainContext``."""
        return self._save

    def _asked_to_stop(self) -> bool:
        """Whether this worker was asked to stop: it is enough if one of the group was."""
        return False

    def _machine_goes(self) -> bool:
        """Whether a machine of the group is about to be taken away; alike on every rank, called on all."""
        return False
