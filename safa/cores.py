"""How much runs at once follows from the cores there are: the one place that says how.

Settings leave it open (``processes``, ``actors``) or say ``auto`` (``scale.num_workers``); presets and
programs have no numbers of their own. Whoever calls these functions says which machines there are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROUNDING = 1e-6  # CPUs that sums of fractions may be off by
SHARE_OF_A_CORE = 0.9  # what training reserves of each; the rest is for Ray itself
MEMORY_OF_AN_ACTOR = 1.5 * 2**30  # bytes: Python, torch, a model and its frames
# Samples that BatchNorm of each worker sees at the least; fewer samples make its statistics too noisy.
LEAST_OF_A_WORKER: dict[Literal["head", "full"], int] = {"head": 8, "full": 2}
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of CPU in so many of time


@dataclass(frozen=True)
class Machine:
    """How many CPUs and GPUs may be used there, and how many bytes of memory."""

    cpus: float
    gpus: float = 0.0
    memory: float = float("inf")


@dataclass(frozen=True)
class Workers:
    """Workers that share a training step.

    Attributes:
        cpus: that each reserves.
        threads: of each.
    """

    count: int
    cpus: float
    threads: int


def cores_here() -> int:
    """The cores that this process may use: those it is bound to, and no more than its container has."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no container, or one without a quota ("max")
        quota, period = QUOTA.read_text(encoding="ascii").split()
        cores = min(cores, int(quota) // int(period))
    return max(1, cores)


def most_actors(machines: Sequence[Machine], cpus: float, gpus: float) -> int:
    """The most actors that are of use: as many as have room, one a core, and no more than memory allows.

    Args:
        cpus, gpus: that each reserves; may be fractions.
    """
    return max(1, sum(_actors_on(machine, cpus, gpus) for machine in machines))


def _actors_on(machine: Machine, cpus: float, gpus: float) -> int:
    cores = max(1, int(machine.cpus + ROUNDING))
    memory = int(max(1.0, min(machine.memory / MEMORY_OF_AN_ACTOR, cores)))
    return min(places(machine, cpus, gpus), cores, memory)


def places(machine: Machine, cpus: float, gpus: float) -> int:
    """How many actors of this size a machine has room for."""
    each = [(machine.cpus, cpus), (machine.gpus, gpus)]
    return int(min((there + ROUNDING) // asked for there, asked in each if asked > 0))


def workers_of(machines: Sequence[Machine], total: int, least: int) -> Workers:
    """The workers that share ``total`` samples evenly: one a core, with ``least`` samples each at the least.

    Cores that are left give each worker more threads. Two workers of one thread are quicker than one of two.
    """
    cores = max(1, int(sum(machine.cpus for machine in machines) + ROUNDING))
    count = _workers(cores, total, least)
    threads = next(
        threads
        for threads in range(cores // count, 0, -1)
        if threads == 1 or sum(int(machine.cpus) // threads for machine in machines) >= count
    )
    return Workers(count, threads * SHARE_OF_A_CORE, threads)


def workers_on_gpus(machines: Sequence[Machine], total: int, least: int) -> int:
    """The same with a GPU for each worker; without any, one."""
    return _workers(max(1, int(sum(machine.gpus for machine in machines))), total, least)


def _workers(places: int, total: int, least: int) -> int:
    """The most workers up to ``places`` among which the samples can be shared evenly."""
    return max(n for n in range(1, places + 1) if n == 1 or (total % n == 0 and total // n >= least))
