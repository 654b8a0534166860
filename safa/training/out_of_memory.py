"""Out-of-memory errors, explained by the settings to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from safa.config.training import TrainConfig
from safa.training.context import WorkerError

CPU_MESSAGE = "DefaultCPUAllocator"  # torch has no error type of its own for the CPU


class WorkerOutOfMemoryError(WorkerError):
    """One worker is out of memory."""


@contextmanager
def explain_out_of_memory(config: TrainConfig, workers: int = 1) -> Iterator[None]:
    """Turn torch's out-of-memory errors into one line that names the setting to lower.

    Args:
        workers: that share ``data.batch_total``.

    Raises:
        WorkerOutOfMemoryError: in place of torch's error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise _explained(config, workers, "the GPU's memory is full", str(error)) from None
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and CPU_MESSAGE not in str(error):
            raise
        raise _explained(config, workers, "this machine's memory is full", str(error)) from None


def _explained(config: TrainConfig, workers: int, what: str, detail: str) -> WorkerOutOfMemoryError:
    total, accumulate = config.data.batch_total, config.step.accumulate
    key, size = ("batch_size", config.data.batches_of(1)[0]) if total is None else ("batch_total", total)
    steps = []
    if config.data.batches_of(workers)[-1] > 1:  # the fewest; each has one then
        steps.append(
            f"Set data.{key} to {size // 2} and step.accumulate to {accumulate * 2} (BatchNorm sees "
            "smaller batches then)."
        )
    if not config.step.bf16:
        steps.append("Set step.bf16 to true.")
    if config.data.cache_mb:
        steps.append("Lower data.cache_mb, kept by every loading process.")
    fix = " ".join(steps) or "Choose a smaller model.image_size."
    first_line = detail.strip().partition("\n")[0][:160]
    return WorkerOutOfMemoryError(f"{what} ({first_line})", f"data.{key} {size}", fix)
