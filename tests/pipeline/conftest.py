"""One local Ray for all pipeline tests: starting one takes seconds."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import ray
from ray.data import DataContext


@pytest.fixture(scope="session", autouse=True)
def local_ray() -> Iterator[None]:
    """Two CPUs, no dashboard; a starved job fails in a minute instead of half an hour."""
    ray.init("local", num_cpus=2, include_dashboard=False, logging_level=logging.WARNING)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False
    yield
    ray.shutdown()
