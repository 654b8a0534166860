"""The pool of actors that does the work of a graph with one stage: how many there are, and what each may use.

Ray Data waits for ever for a pool whose least actors have no room; ``pipelines.machines`` refuses one for
which there can be none, before work starts. The pool begins with what there is room for, and grows.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import ray

from pipelines.growth import growth
from safa.cores import Machine, cores_here, most_actors, places

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


def machines_at_most() -> tuple[Machine, ...]:
    """The machines that there may be once the cluster has grown; those that there are, where it cannot."""
    to_come = growth()
    return machines() if to_come is None else to_come.machines()


def fitted(
    cpus: float,
    gpus: float,
    actors: tuple[int, int | None],
    useful: int,
    nodes: Sequence[Machine],
    grown: Sequence[Machine] = (),
) -> Pool:
    """A pool that begins with as many actors as these machines have room for.

    Args:
        cpus, gpus: of each actor.
        actors: least and most of them; None: as many as ``safa.cores`` says. The least are there, or will
            come (``pipelines.machines``).
        useful: more actors than this would have nothing to do.
        grown: the machines that there may be later, for which an open pool may grow.
    """
    most = actors[1]
    if most is None:
        most = max(most_actors(nodes, cpus, gpus), most_actors(grown, cpus, gpus))
    least, most = min(actors[0], useful), min(most, useful)
    room = sum(places(node, cpus, gpus) for node in nodes)
    return Pool(cpus, gpus, least, most, max(least, min(most, room)))


def pool_for(name: str, cpus: float, gpus: float, actors: tuple[int, int | None], useful: int) -> Pool:
    """A pool for so many pieces of work on the machines of this session; the log says what it is."""
    pool = fitted(cpus, gpus, actors, useful, machines(), machines_at_most())
    log.info("%s: %d to %d actors of %g CPU%s", name, pool.least, pool.most, pool.cpus, _and_gpus(pool))
    return pool


def _and_gpus(pool: Pool) -> str:
    return f" and {pool.gpus:g} GPU" if pool.gpus else ""
