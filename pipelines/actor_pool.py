"""The pool of actors that does the work of a graph with one stage: how many there are, and what each may use.

Ray Data waits for ever for a pool whose least actors have no room. So the request is compared with the
machines before work starts: the pool starts smaller, or asks for less of a CPU, and the log says so. GPUs are
never shrunk: half a GPU may not hold the model (``pipelines.machines`` refuses what is not there).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import ray

from safa.cores import ROUNDING, Machine, cores_here, most_actors, places

log = logging.getLogger(__name__)


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


def machines() -> tuple[Machine, ...]:
    """The machines of the Ray session that can take work; empty while none has come."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]] if ray.is_initialized() else []
    nodes = [Machine(each.get("CPU", 0), each.get("GPU", 0), each.get("memory", math.inf)) for each in found]
    return tuple(node for node in nodes if node.cpus or node.gpus)


def cores_of_driver() -> int:
    """The cores of this machine that Ray may use; without Ray, or on a head without any, those there are."""
    here = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
    found = (
        [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["NodeID"] == here] if here else []
    )
    return int(sum(found)) or cores_here()


def fitted(
    cpus: float, gpus: float, actors: tuple[int, int | None], useful: int, nodes: Sequence[Machine]
) -> tuple[Pool, tuple[str, ...]]:
    """A pool that has room on these machines, and what was changed for it, in words.

    Args:
        cpus, gpus: of each actor, as the settings ask.
        actors: least and most of them, likewise; None: as many as ``safa.cores`` says.
        useful: more actors than this would have nothing to do.
        nodes: none are taken as some that are still to come.
    """
    most = most_actors(nodes, cpus, gpus) if actors[1] is None else actors[1]
    least, most = min(actors[0], useful), min(most, useful)
    notes: list[str] = []
    if not nodes:
        return Pool(cpus, gpus, least, most, least), ()
    enough = [node.cpus for node in nodes if node.gpus + ROUNDING >= gpus]
    if enough and max(enough) > 0 and cpus > max(enough):
        notes.append(f"an actor gets {max(enough):g} CPU, not {cpus:g}: no machine has more")
        cpus = max(enough)
    room = max(1, sum(places(node, cpus, gpus) for node in nodes))
    if least > room:
        notes.append(f"the pool starts with {room} actors, not {least}: there is no room for more")
        least = room
    return Pool(cpus, gpus, least, most, max(least, min(most, room))), tuple(notes)


def pool_for(name: str, cpus: float, gpus: float, actors: tuple[int, int | None], useful: int) -> Pool:
    """A pool for so many pieces of work on the machines of this session; the log says what was changed."""
    pool, notes = fitted(cpus, gpus, actors, useful, machines())
    for note in notes:
        log.info("%s: %s", name, note)
    log.info("%s: %d to %d actors of %g CPU%s", name, pool.least, pool.most, pool.cpus, _and_gpus(pool))
    return pool


def _and_gpus(pool: Pool) -> str:
    return f" and {pool.gpus:g} GPU" if pool.gpus else ""
