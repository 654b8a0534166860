"""Clocks of the benchmarks: parts of one run, and ways that take turns."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn


class Clock:
    """Adds up the seconds of named parts; a part inside another counts for itself only."""

    def __init__(self, wait: Callable[[], None]) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._wait = wait
        self._inner = [0.0]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time the block."""
        self._wait()
        self._inner.append(0.0)
        began = time.perf_counter()
        yield
        self._wait()
        spent = time.perf_counter() - began
        self.seconds[name] += spent - self._inner.pop()
        self._inner[-1] += spent

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        """Time every call of a method of one object (or of all objects of a class)."""
        call = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return call(*args, **kwargs)

        # Past nn.Module's own rules for attributes.
        if isinstance(owner, nn.Module):
            object.__setattr__(owner, attribute, timed)
        else:
            setattr(owner, attribute, timed)


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def in_turns(ways: Mapping[str, Callable[[], object]], rounds: int, clock: str = "wall") -> dict[str, float]:
    """Median seconds of each way. They take turns, so that a busy machine hits all; one round warms up.

    Args:
        clock: ``wall``, or ``cpu``, the time of this process on processors: for one thread on a busy machine.
    """
    now = CLOCKS[clock]
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, work in ways.items():
            began = now()
            work()
            if number:
                times[name].append(now() - began)
    return {name: statistics.median(seconds) for name, seconds in times.items()}
