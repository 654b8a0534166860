"""The pool of actors that does the work of a graph with one stage: how many there are, and what each may use.

Ray Data waits for ever for a pool whose least actors have no room. So the request is compared with the
machines before work starts: the pool starts smaller, or asks for less of a CPU, and the log says so. GPUs are
never shrunk: half a GPU may not hold the model (``pipelines.machines`` refuses what is not there).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import ray

log = logging.getLogger(__name__)

ROUNDING = 1e-6  # CPUs that sums of fractions may be off by


@dataclass(frozen=True)
class Node:
    """A machine: how many CPUs and GPUs Ray may use there."""

    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Pool:
    """Actors that all do the same.

    Attributes:
        cpus, gpus: of each; may be fractions.
        least, most: actors; the pool grows and shrinks between them with the work.
        first: actors that it starts with.
    """

    cpus: float
    gpus: float
    least: int
    most: int
    first: int


def machines() -> tuple[Node, ...]:
    """The machines of the Ray session that can take work; empty while none has come."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]] if ray.is_initialized() else []
    nodes = [Node(float(each.get("CPU", 0)), float(each.get("GPU", 0))) for each in found]
    return tuple(node for node in nodes if node.cpus or node.gpus)


def fitted(
    cpus: float, gpus: float, actors: tuple[int, int], useful: int, nodes: Sequence[Node]
) -> tuple[Pool, tuple[str, ...]]:
    """A pool that has room on these machines, and what was changed for it, in words.

    Args:
        cpus, gpus: of each actor, as the settings ask.
        actors: least and most of them, likewise.
        useful: more actors than this would have nothing to do.
        nodes: none are taken as some that are still to come.
    """
    least, most = min(actors[0], useful), min(actors[1], useful)
    notes: list[str] = []
    if not nodes:
        return Pool(cpus, gpus, least, most, least), ()
    enough = [node.cpus for node in nodes if node.gpus + ROUNDING >= gpus]
    if enough and max(enough) > 0 and cpus > max(enough):
        notes.append(f"an actor gets {max(enough):g} CPU, not {cpus:g}: no machine has more")
        cpus = max(enough)
    room = max(1, sum(_places(node, cpus, gpus) for node in nodes))
    if least > room:
        notes.append(f"the pool starts with {room} actors, not {least}: there is no room for more")
        least = room
    return Pool(cpus, gpus, least, most, max(least, min(most, room))), tuple(notes)


def _places(node: Node, cpus: float, gpus: float) -> int:
    """How many actors a machine has room for."""
    each = [(node.cpus, cpus), (node.gpus, gpus)]
    return int(min((there + ROUNDING) // asked for there, asked in each if asked > 0))


def pool_for(name: str, cpus: float, gpus: float, actors: tuple[int, int], useful: int) -> Pool:
    """A pool for so many pieces of work on the machines of this session; the log says what was changed."""
    pool, notes = fitted(cpus, gpus, actors, useful, machines())
    for note in notes:
        log.info("%s: %s", name, note)
    log.info("%s: %d to %d actors of %g CPU%s", name, pool.least, pool.most, pool.cpus, _and_gpus(pool))
    return pool


def _and_gpus(pool: Pool) -> str:
    return f" and {pool.gpus:g} GPU" if pool.gpus else ""
