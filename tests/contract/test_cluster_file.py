"""cluster.yaml must be valid for the autoscaler that the pinned Ray ships."""

from __future__ import annotations

import json
from importlib import metadata, util
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]


def _schema() -> dict[str, object]:
    spec = util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    schema: dict[str, object] = json.loads(
        Path(spec.origin).with_name("autoscaler").joinpath("ray-schema.json").read_text()
    )
    return schema


@pytest.fixture(scope="module")
def cluster() -> dict[str, object]:
    loaded: dict[str, object] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    return loaded


def test_valid_against_rays_own_schema(cluster: dict[str, object]) -> None:
    jsonschema.validate(cluster, _schema())


def test_schema_check_has_teeth(cluster: dict[str, object]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster, "head_node_typo": "head"}, _schema())


def test_pools_and_head_are_named(cluster: dict[str, object]) -> None:
    types = cluster["available_node_types"]
    assert isinstance(types, dict)
    assert {"head", "cpu_pool", "gpu_pool"} == set(types)
    assert cluster["head_node_type"] == "head"


def test_images_carry_the_installed_ray_version(cluster: dict[str, object]) -> None:
    docker = cluster["docker"]
    assert isinstance(docker, dict)
    for key in ("head_image", "worker_image"):
        assert f":{metadata.version('ray')}-py311" in docker[key]


def test_a_stopped_job_has_time_to_save_its_state(cluster: dict[str, object]) -> None:
    from ray.dashboard.modules.job import job_supervisor

    name = "RAY_JOB_STOP_WAIT_TIME_S"
    assert name in Path(job_supervisor.__file__).read_text(), "Ray reads it under this name"
    commands = cluster["head_start_ray_commands"]
    assert isinstance(commands, list)
    assert any(f"{name}=120 ray start --head" in command for command in commands)
