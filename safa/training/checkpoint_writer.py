"""Writes training states in the background, so that training hardly waits for the disk.

The tensors of a step are copied at once, into buffers that are kept from one state to the next: fresh memory
costs more than the copy. On a GPU the copy itself is asynchronous too: it lies in the stream before the next
step, and the writing thread waits for it. Everything else, from the copy to the rename, is the thread's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from safa.checkpoint.native import (
    ModelInfo,
    Progress,
    StoredState,
    TrainState,
    keep_states,
    stored_state,
    write_stored_state,
)
from safa.errors import UserError
from safa.files import Location, shown
from safa.training.context import WorkerError


class CheckpointError(WorkerError):
    """A state could not be written. Rank 0 alone writes them, so the others do not know."""


class CheckpointWriter:
    """Writes the states of one run, one at a time.

    Args:
        root: folder of the states.
        newest: how many of the newest states stay.
        score: name of the metric whose best states stay too.

    Attributes:
        waited: seconds that the caller has spent here so far.
    """

    def __init__(self, root: Location, newest: int, score: str) -> None:
        self._root, self._newest, self._score = root, newest, score
        self._buffers: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self.waited = 0.0

    def save(
        self,
        state: TrainState,
        progress: Progress,
        info: ModelInfo,
        best: Mapping[int, float],
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Copy the state and begin to write it, once the state before it is written.

        Args:
            best: as for ``keep_states``.
            before: what the thread does before the state appears.

        Raises:
            CheckpointError: the state before this one could not be written.
        """
        self.wait()
        began = time.perf_counter()
        copied = self._copied(stored_state(state, progress, info))
        event = None
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._thread = threading.Thread(
            target=self._write, args=(copied, event, dict(best), before), name="checkpoint"
        )
        self._thread.start()
        self.waited += time.perf_counter() - began

    def wait(self) -> None:
        """Wait until the state that was begun is on the disk.

        Raises:
            CheckpointError: it could not be written.
        """
        began = time.perf_counter()
        self.close()
        self.waited += time.perf_counter() - began
        error, self._error = self._error, None
        if error is None:
            return
        if isinstance(error, UserError):
            raise CheckpointError(error.what, error.where or shown(self._root), error.fix) from None
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"the state cannot be written ({reason})",
            shown(self._root),
            "Make room or correct the folder's permissions, then run the same command again to resume.",
        ) from None

    def close(self) -> None:
        """Let the thread finish. Its error, if any, is left to ``wait``."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(
        self,
        stored: StoredState,
        event: torch.cuda.Event | None,
        best: Mapping[int, float],
        before: Callable[[], None],
    ) -> None:
        try:
            before()
            if event is not None:
                event.synchronize()
            write_stored_state(self._root, stored)
            keep_states(self._root, self._newest, best, self._score)
        except Exception as error:  # whatever it is, the training thread raises it
            self._error = error

    def _copied(self, stored: StoredState) -> StoredState:
        """Return the state with every tensor in the buffers."""
        networks = {
            part: {name: self._copy(f"networks/{part}/{name}", value) for name, value in tensors.items()}
            for part, tensors in stored.networks.items()
        }
        moments = {
            part: {name: self._copy(f"moments/{part}/{name}", value) for name, value in tensors.items()}
            for part, tensors in stored.moments.items()
        }
        ema = None
        if stored.ema is not None:
            ema = {name: self._copy(f"ema/{name}", value) for name, value in stored.ema.items()}
        return StoredState(networks, ema, moments, stored.optimisers, stored.progress, stored.info)

    def _copy(self, name: str, value: Tensor) -> Tensor:
        source = value.detach()
        buffer = self._buffers.get(name)
        if buffer is None:
            buffer = torch.empty_like(source, device="cpu", pin_memory=source.is_cuda)
            self._buffers[name] = buffer
        return buffer.copy_(source, non_blocking=True)
