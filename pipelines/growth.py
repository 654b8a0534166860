"""How far a cluster can grow: which machines may still start.

Ray has a call for it, which is answered on its makers' own platform alone. So it is read where it stands: in
the file with which the head's monitor process was started (``ray up``). KubeRay starts machines from a
container of its own, whose limits no node knows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml
from ray._private.state import state as cluster_state

from safa.cores import ROUNDING, Machine

PROCESSES = Path("/proc")
MONITORS = ("autoscaler/_private/monitor.py", "autoscaler/v2/monitor.py")  # programs of Ray's
ITS_FILE, ITS_CLUSTER = "--autoscaling-config=", "--gcs-address="
HEAD = "node:__internal_head__"  # a resource that Ray gives to the head alone
KUBERAY_START = "KUBERAY_GEN_RAY_START_CMD"  # the variable in which KubeRay keeps how it starts a node
NO_MONITOR = "--no-monitor"  # so it does where a container of its own starts machines
LARGEST_FILE = 2**20  # bytes
MANY = Machine(cpus=4096, gpus=512)  # that may come where nobody says how many


@dataclass(frozen=True)
class Growth:
    """What a cluster may have at the most.

    Attributes:
        kinds: for each kind of machine how many there may be, and the resources of one; None: nobody says.
    """

    kinds: tuple[tuple[int, Mapping[str, float]], ...] | None = None

    def most(self, name: str) -> float:
        """The most of a resource in all machines together."""
        if self.kinds is None:
            return float("inf")
        return sum(number * each.get(name, 0.0) for number, each in self.kinds)

    def places(self, each: Mapping[str, float]) -> float:
        """How many workers of this size have room in all machines together, each worker in one machine."""
        if self.kinds is None:
            return float("inf")
        return sum(number * places_in(kind, each) for number, kind in self.kinds)

    def most_of_one(self, name: str) -> float:
        """The most of a resource in one machine; 0 where nobody says."""
        return max((each.get(name, 0.0) for number, each in self.kinds or () if number), default=0.0)

    def machines(self) -> tuple[Machine, ...]:
        """All machines that there may be; ``MANY`` where nobody says."""
        if self.kinds is None:
            return (MANY,)
        return tuple(
            Machine(each.get("CPU", 0.0), each.get("GPU", 0.0), each.get("memory", float("inf")))
            for number, each in self.kinds
            for _ in range(number)
            if each.get("CPU") or each.get("GPU")
        )


def places_in(machine: Mapping[str, float], each: Mapping[str, float]) -> int:
    """How many workers of this size have room in one machine; none of a worker that needs nothing."""
    asked = [(machine.get(name, 0.0), count) for name, count in each.items() if count]
    return int(min((there + ROUNDING) // count for there, count in asked)) if asked else 0


def growth() -> Growth | None:
    """What the cluster of this session may grow to; None: it is as large as it will be."""
    if not ray.is_initialized():
        return None
    reported = cluster_state.get_cluster_config()
    if reported is not None and reported.node_group_configs:
        groups = [(each.max_count, dict(each.resources)) for each in reported.node_group_configs]
        return Growth(None if any(number < 0 for number, _ in groups) else tuple(groups))
    for words in _monitors(ray.get_runtime_context().gcs_address):
        path = next((word.removeprefix(ITS_FILE) for word in words if word.startswith(ITS_FILE)), "")
        return of_file(Path(path), sum(node["Alive"] for node in ray.nodes())) if path else None
    if NO_MONITOR in os.environ.get(KUBERAY_START, ""):
        return Growth()
    return None if _is_at_the_head() else Growth()


def of_file(path: Path, alive: int) -> Growth | None:
    """What the file of a cluster allows. Nobody says where it cannot be read, or leaves resources open.

    Args:
        alive: machines that are there.
    """
    with suppress(OSError, yaml.YAMLError, AttributeError, LookupError, TypeError, ValueError):
        with path.expanduser().open("rb") as file:
            cluster = yaml.safe_load(file.read(LARGEST_FILE))
        return of_cluster(cluster, alive)
    return Growth()


def of_cluster(cluster: Mapping[str, Any], alive: int) -> Growth | None:
    """What the content of such a file allows; None: all of its machines are there."""
    provider = cluster["provider"]
    if provider["type"] == "local":  # machines of one's own, by their addresses
        return Growth() if alive < 1 + len(provider["worker_ips"]) else None
    head, most = cluster["head_node_type"], int(cluster.get("max_workers", 0))
    kinds: list[tuple[int, Mapping[str, float]]] = []
    for name, kind in cluster["available_node_types"].items():
        number = 1 if name == head else min(int(kind.get("max_workers", most)), most)
        resources = {key: float(value) for key, value in (kind.get("resources") or {}).items()}
        if number and not resources and name != head:
            return Growth()
        kinds.append((number, resources))
    return Growth(tuple(kinds))


def _monitors(cluster: str) -> Iterator[list[str]]:
    """The command lines of this cluster's monitors on this machine."""
    for process in PROCESSES.glob("[0-9]*/cmdline") if PROCESSES.is_dir() else ():
        with suppress(OSError):  # it may end at any time
            words = process.read_bytes().decode("utf-8", "replace").split("\0")
            of_ray = any(word.endswith(MONITORS) for word in words[:4])
            if of_ray and ITS_CLUSTER + cluster in words:
                yield words


def _is_at_the_head() -> bool:
    """Whether this process runs on the machine of the head, whose monitor it would see."""
    here = ray.util.get_node_ip_address()
    return any(node["NodeManagerAddress"] == here for node in ray.nodes() if HEAD in node["Resources"])
