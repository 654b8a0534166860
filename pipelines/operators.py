"""Operators of a graph: stages that share a process, what that takes, and whether all fit the machine.

Neighbouring stages on the same resource share a process. A graph is checked before work starts: Ray Data
would wait for ever for an operator that has no room beside the others.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.data import ActorPoolStrategy, Dataset, TaskPoolStrategy

from pipelines.actor_pool import machines_at_most, pool_for
from pipelines.machines import Need
from pipelines.shared_folder import Checked
from safa.cores import Machine, most_actors
from safa.messages import count

log = logging.getLogger(__name__)

OPEN = (1, None)  # actors: as many as ``safa.cores`` says


@dataclass(frozen=True)
class Operator:
    """One operator of the graph: stages that run in one process, and what it takes of the cluster.

    ``where`` is the section of the settings that says so, e.g. ``stages.crop``.
    """

    stages: tuple[str, ...]
    where: str
    cpus: float
    gpus: float = 0.0
    actors: tuple[int, int | None] | None = None  # least and most; None: tasks, which keep nothing loaded
    at_once: int | None = None  # tasks at most; None: as many as there is room for
    rows: int | None = None  # in a call; None: a block
    first: int | None = None  # actors at the start; None: the least

    @property
    def processes(self) -> int:
        """The least that must run at once."""
        return self.actors[0] if self.actors else 1

    @property
    def most(self) -> int:
        """The most actors of a pool that has a size; 1 for tasks."""
        return (self.actors and self.actors[1]) or 1

    @property
    def request(self) -> str:
        """What one process takes, for the log."""
        gpus = f", gpus {self.gpus:g}" if self.gpus else ""
        return f"cpus {self.cpus:g}{gpus}, at least {count(self.processes, 'process', 'processes')}"


def needs(pipeline: str, graph: Sequence[Operator], fix: str) -> list[Need]:
    """What each operator needs by itself: a machine that has what a process asks for, and so many of them.

    That all of them run at once is no need: ``fitted`` makes them smaller.

    Args:
        pipeline: whose needs they are, as in ``preprocessing``.
        fix: what to do where there is no room.
    """
    return [
        Need(pipeline, {"CPU": each.cpus, "GPU": each.gpus}, each.where, fix, each.processes)
        for each in graph
    ]


def with_room(name: str, graph: Sequence[Operator], useful: int) -> list[Operator]:
    """The graph as it fits the machines of this session; pools of open size get one.

    A single pool begins with as many actors as have room.

    Args:
        name: of the pipeline, for the log.
        useful: more actors than this would have nothing to do.
    """
    if len(graph) == 1 and graph[0].actors is not None:
        pool = pool_for(name, graph[0].cpus, graph[0].gpus, graph[0].actors, useful)
        return [replace(graph[0], actors=(pool.least, pool.most), first=pool.first)]
    there = ray.cluster_resources() if ray.is_initialized() else {}
    return fitted(name, closed(graph, machines_at_most()), there.get("CPU", 0.0), there.get("GPU", 0.0))


def closed(graph: Sequence[Operator], nodes: Sequence[Machine]) -> list[Operator]:
    """The graph with a size for each pool that had none; a task of each other operator keeps its room."""
    beside = sum(operator.cpus for operator in graph if operator.actors is None)
    cpus = sum(node.cpus for node in nodes) - beside

    def size(pool: Operator, least: int) -> tuple[int, int]:
        return least, max(least, min(most_actors(nodes, pool.cpus, pool.gpus), int(cpus / pool.cpus)))

    return [
        replace(each, actors=size(each, each.actors[0])) if each.actors and each.actors[1] is None else each
        for each in graph
    ]


def fitted(name: str, graph: Sequence[Operator], cpus: float, gpus: float) -> list[Operator]:
    """The graph with smaller requests where it would not fit: a pool of one process, less of a CPU each.

    It fits if the least processes of every pool and one task of every other operator can run at once;
    otherwise a stage would wait for ever for one behind it.

    Args:
        name: of the pipeline, for the log.
        cpus, gpus: of the whole cluster. None at all are taken as some that are still to come.
    """
    small = list(graph)
    if gpus and sum(o.gpus * o.processes for o in small) > gpus:
        small = [
            replace(o, gpus=min(o.gpus, gpus), actors=(1, o.actors[1])) if o.actors else o for o in small
        ]
    if cpus and sum(o.cpus * o.processes for o in small) > cpus:
        small = [replace(o, actors=(1, o.actors[1])) if o.actors else o for o in small]
        share = min(1.0, cpus / sum(o.cpus for o in small))
        small = [replace(o, cpus=math.floor(o.cpus * share * 100) / 100 or 0.01) for o in small]
    for before, after in zip(graph, small, strict=True):
        if before != after:
            log.info(
                "%s: %s shrunk to fit %g CPUs and %g GPUs: %s",
                *(name, " + ".join(after.stages), cpus, gpus, after.request),
            )
    return small


def applied(operator: Operator, rows: Dataset, worker: Sequence[Any]) -> Dataset:
    """The lazy data set of what an operator makes of these rows.

    Args:
        worker: arguments of ``Checked``: probes, the class of the worker, and its arguments.
    """
    options: dict[str, Any] = {"num_cpus": operator.cpus, "num_gpus": operator.gpus or None}
    options |= {"batch_size": operator.rows, "batch_format": "pyarrow", "zero_copy_batch": True}
    if operator.actors is None:
        compute = TaskPoolStrategy(size=operator.at_once)
        return rows.map_batches(Checked(*worker), compute=compute, **options)
    least, most = operator.actors
    pool = ActorPoolStrategy(min_size=least, max_size=most, initial_size=operator.first)
    return rows.map_batches(Checked, fn_constructor_args=tuple(worker), compute=pool, **options)


def drawn(graph: Sequence[Operator]) -> str:
    """The graph in a line, e.g. ``[crop] -> [landmarks: actors, GPU] -> [write]``."""
    boxes = []
    for operator in graph:
        kinds = ["actors"] * bool(operator.actors) + ["GPU"] * bool(operator.gpus)
        boxes.append(" + ".join(operator.stages) + (f": {', '.join(kinds)}" if kinds else ""))
    return " -> ".join(f"[{box}]" for box in boxes)
