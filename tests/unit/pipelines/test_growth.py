"""How far a cluster grows is read where it stands; tests/pipeline/test_ray_job.py has a real autoscaler."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from pipelines import growth as program
from pipelines.growth import MANY, Growth, growth, of_cluster, of_file
from safa.cores import Machine

ROOT = Path(__file__).parents[3]
HEAD = "10.0.0.1"
CLUSTER = f"{HEAD}:6379"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """A session whose head is this machine; its processes, and what Ray itself reports."""
    seen: dict[str, Any] = {"reported": None, "address": HEAD, "processes": tmp_path / "proc"}
    seen["processes"].mkdir()

    class Context:
        gcs_address = CLUSTER

    nodes = [
        {"NodeManagerAddress": HEAD, "Alive": True, "Resources": {program.HEAD: 1.0}},
        {"NodeManagerAddress": "10.0.0.2", "Alive": True},
    ]
    nodes[1]["Resources"] = {"CPU": 1.0}
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_runtime_context", Context)
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: seen["address"])
    monkeypatch.setattr(program.cluster_state, "get_cluster_config", lambda: seen["reported"])
    monkeypatch.setattr(program, "PROCESSES", seen["processes"])
    monkeypatch.delenv(program.KUBERAY_START, raising=False)
    return seen


def _process(here: dict[str, Any], number: int, *words: str) -> None:
    folder = here["processes"] / str(number)
    folder.mkdir()
    (folder / "cmdline").write_bytes("\0".join(("python", "-u", *words)).encode())


def _monitor(here: dict[str, Any], number: int, file: Path | None, cluster: str = CLUSTER) -> None:
    words = ["/ray/autoscaler/v2/monitor.py", f"--gcs-address={cluster}"]
    _process(here, number, *words, *([f"--autoscaling-config={file}"] if file else []))


def test_without_a_session_nothing_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert growth() is None


def test_the_file_of_this_clusters_monitor_says(here: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "cluster.json"
    pool = {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 3}
    kinds = {"head": {"resources": {"CPU": 0}}, "pool": pool}
    cluster = {"provider": {"type": "aws"}, "head_node_type": "head", "max_workers": 2}
    file.write_text(json.dumps(cluster | {"available_node_types": kinds}))
    _process(here, 1, "-m", "pipelines.train", f"--gcs-address={CLUSTER}")
    _monitor(here, 2, tmp_path / "of-another", "10.0.0.1:6380")
    _monitor(here, 3, file)
    found = growth()
    assert found == Growth(((1, {"CPU": 0.0}), (2, {"CPU": 8.0, "GPU": 1.0})))
    assert (found.most("CPU"), found.most("GPU"), found.most("TPU"), found.most_of_one("GPU")) == (
        16,
        2,
        0,
        1,
    )
    assert (found.places({"CPU": 3, "GPU": 0}), found.places({"CPU": 9}), found.places({})) == (4, 0, 0)
    assert found.machines() == (Machine(8, 1), Machine(8, 1))


def test_a_monitor_without_a_file_starts_no_machines(here: dict[str, Any]) -> None:
    _monitor(here, 1, None)
    assert growth() is None


def test_a_head_without_a_monitor_starts_no_machines_but_kuberays(
    here: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert growth() is None
    monkeypatch.setenv(program.KUBERAY_START, "ray start --head --num-cpus=0")
    assert growth() is None
    monkeypatch.setenv(program.KUBERAY_START, "ray start --head  --no-monitor  --num-cpus=0")
    assert growth() == Growth()


def test_a_program_elsewhere_does_not_know(here: dict[str, Any]) -> None:
    here["address"] = "10.0.0.2"
    found = growth()
    assert found is not None
    assert found.most("CPU") == found.places({"CPU": 99}) == float("inf")
    assert (found.most_of_one("GPU"), found.machines()) == (0, (MANY,))


def test_what_ray_reports_counts_first(here: dict[str, Any]) -> None:
    class Group:
        def __init__(self, most: int) -> None:
            self.max_count, self.resources = most, {"CPU": 4}

    class Reported:
        def __init__(self, *groups: Group) -> None:
            self.node_group_configs = groups

    here["reported"] = Reported(Group(2))
    assert growth() == Growth(((2, {"CPU": 4}),))
    here["reported"] = Reported(Group(2), Group(-1))
    assert growth() == Growth(), "as many as one likes"


@pytest.mark.parametrize("text", ["", "[", "a: 1", "head_node_type: h\navailable_node_types: {h: 1}"])
def test_a_file_that_cannot_be_read_says_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(text)
    assert of_file(tmp_path / "cluster.yaml", 1) == Growth()
    assert of_file(tmp_path / "gone.yaml", 1) == Growth()


def test_our_own_files() -> None:
    """Machines of one's own are those of the list, which may come late."""
    aws = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert of_cluster(aws, 1) == Growth(), "until Ray has asked EC2, at `ray up`"
    aws["available_node_types"]["cpu_pool"]["resources"] = {"CPU": 32}
    aws["available_node_types"]["gpu_pool"]["resources"] = {"CPU": 16, "GPU": 1}
    found = of_cluster(aws, 1)
    assert found is not None
    assert found.most("GPU") >= found.most_of_one("GPU") == 1
    assert found.most("CPU") > 32
    own = yaml.safe_load((ROOT / "deploy" / "cluster-local.yaml").read_text())
    machines = 1 + len(own["provider"]["worker_ips"])
    assert of_cluster(own, machines - 1) == Growth()
    assert of_cluster(own, machines) is None
