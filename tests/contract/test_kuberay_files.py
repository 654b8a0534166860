"""deploy/kuberay: kinds, pods and settings are what Kubernetes, KubeRay and our programs take.

Pods are read by the models of the `kubernetes` package, which know every field; the fields of a RayJob are
those of KubeRay's own definition (v1).
"""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import KEEPALIVE
from safa.config import Settings, load_settings
from safa.config.demo import DemoConfig
from safa.config.inference import EvaluateConfig
from safa.config.preprocess import PreprocessConfig
from safa.config.training import TrainConfig

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "deploy" / "kuberay").glob("*.yaml"))
CONFIGS: dict[str, type[Settings]] = {
    "preprocess": PreprocessConfig,
    "pretrain": TrainConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "smoke": DemoConfig,
    "own": DemoConfig,
}
PROGRAMS = {"pretrain": "train", "smoke": "demo", "own": "demo"}  # of files that have another name
SHIPPED = {"smoke": "smoke/demo", "own": "own_videos"}  # configs, likewise
RAYJOB = {
    *("activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint"),
    *("entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata"),
    *("rayClusterSpec", "runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode", "submitterConfig"),
    *("submitterPodTemplate", "suspend", "ttlSecondsAfterFinished"),
}
CLUSTER = {
    *("authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions"),
    *("headGroupSpec", "headServiceAnnotations", "managedBy", "rayVersion", "suspend", "workerGroupSpecs"),
}
GROUP = {
    *("groupName", "idleTimeoutSeconds", "labels", "maxReplicas", "minReplicas", "numOfHosts"),
    *("rayStartParams", "replicas", "resources", "scaleStrategy", "suspend", "template"),
}


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def job(request: pytest.FixtureRequest) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(request.param.read_text())
    return loaded


def _groups(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def known_to_kubernetes(plain: dict[str, Any], kind: str) -> Any:
    """The object as the model of its kind reads it, which knows each field."""
    client = pytest.importorskip("kubernetes.client", reason="not installed: pip install kubernetes")
    api = client.ApiClient()
    known = api.deserialize(json.dumps(plain), kind, "application/json")
    # A field that the model does not know is dropped, so it is not in what the model says.
    assert api.sanitize_for_serialization(known) == plain
    return known


def test_there_is_one_for_each_program() -> None:
    assert {path.stem for path in FILES} == set(CONFIGS)


def test_fields_are_those_of_a_rayjob(job: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job["spec"]) <= RAYJOB
    assert set(job["spec"]["rayClusterSpec"]) <= CLUSTER
    for group in _groups(job):
        assert set(group) <= GROUP
    # A try costs a cluster; without any, a head that is lost ends the job.
    assert (job["spec"]["backoffLimit"] == 0) == (job["metadata"]["name"] == "safa-smoke")
    assert job["spec"]["backoffLimit"] <= 2
    assert job["spec"]["ttlSecondsAfterFinished"] <= 60, "idle machines cost"
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == metadata.version("ray")


def test_pods_are_valid_for_kubernetes(job: dict[str, Any]) -> None:
    for template in _templates(job):
        pod = known_to_kubernetes(template, "V1PodTemplateSpec")
        mounted = {mount.name for each in pod.spec.containers for mount in each.volume_mounts or ()}
        assert mounted == {volume.name for volume in pod.spec.volumes or ()}


def _templates(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Of all pods that are written out: what submits, the head, the workers."""
    return [job["spec"]["submitterPodTemplate"], *(group["template"] for group in _groups(job))]


def restricted(pod: dict[str, Any]) -> bool:
    """Whether a pod meets the standard `restricted` of Kubernetes."""
    user = pod["securityContext"]
    plain = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return bool(
        user["runAsNonRoot"]
        and user["runAsUser"] == 1000
        and user["seccompProfile"] == {"type": "RuntimeDefault"}
        and all(each["securityContext"] == plain for each in pod["containers"])
        and not any("hostPath" in volume for volume in pod.get("volumes", ()))
    )


def test_strict_clusters_take_the_pods(job: dict[str, Any]) -> None:
    templates = _templates(job)
    assert all(restricted(template["spec"]) for template in templates)
    images = {each["image"] for template in templates for each in template["spec"]["containers"]}
    assert len(images) == 1
    options = job["spec"]["rayClusterSpec"]["autoscalerOptions"]
    assert options["securityContext"] == templates[0]["spec"]["containers"][0]["securityContext"]
    # The head's container of KubeRay starts pods; nobody else has a right.
    for template in (templates[0], *templates[2:]):
        assert template["spec"]["automountServiceAccountToken"] is False


def test_a_stopped_job_has_time_to_save_its_state(job: dict[str, Any]) -> None:
    (container,) = _groups(job)[0]["template"]["spec"]["containers"]
    assert {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "120"} in container["env"]


def test_calls_to_a_machine_that_vanished_end(job: dict[str, Any]) -> None:
    for group in _groups(job):
        (container,) = group["template"]["spec"]["containers"]
        assert {each["name"]: each["value"] for each in container["env"]}.items() >= KEEPALIVE.items()


def _paths(value: Any) -> list[Path]:
    """All paths of the settings: a relative one is of the container's own disk."""
    if isinstance(value, Settings):
        value = [getattr(value, name) for name in type(value).model_fields]
    if isinstance(value, tuple | list):
        return [path for each in value for path in _paths(each)]
    return [value] if isinstance(value, Path) else []


def test_each_job_has_what_the_one_before_it_makes() -> None:
    """Folders that are read are inputs that you bring, or outputs of another file."""
    jobs = {path.stem: yaml.safe_load(path.read_text())["spec"]["entrypoint"] for path in FILES}
    made = {"/mnt/shared/vox/clips", "/mnt/shared/runs/pretrain", "/mnt/shared/runs/train"}
    assert "out=/mnt/shared/vox" in jobs["preprocess"]
    assert all("runs=/mnt/shared/runs" in jobs[name] for name in ("pretrain", "train"))
    for name in ("pretrain", "train", "evaluate"):
        read = re.findall(r"(?:clips|init|model)=(\S+)|history=\[(\S+)\]", jobs[name])
        assert {path for pair in read for text in pair for path in text.split(",") if path} <= made


def test_scratch_is_on_the_disk_of_the_node(job: dict[str, Any]) -> None:
    """What is spilled must not go to the container's disk, which is small."""
    for group in _groups(job)[1:]:
        mounts = [mount["mountPath"] for mount in group["template"]["spec"]["containers"][0]["volumeMounts"]]
        assert group["rayStartParams"] == {"object-spilling-directory": "/mnt/nvme/spill"}
        assert "/mnt/nvme" in mounts


def test_the_entrypoint_is_a_program_and_its_settings(job: dict[str, Any]) -> None:
    words = job["spec"]["entrypoint"].split()
    name = job["metadata"]["name"].removeprefix("safa-")
    program = PROGRAMS.get(name, name)
    assert words[:4] == ["python", "-m", f"pipelines.{program}", "--config"]
    assert words[4] == f"/home/ray/safa/configs/{SHIPPED.get(name, name)}.yaml"
    config = ROOT / words[4].removeprefix("/home/ray/safa/")
    overrides = [word for word in words[5:] if word != "--set"]
    settings: Any = load_settings(config, CONFIGS[name], overrides)
    assert all(value.partition("=")[2].lstrip("[").startswith("/mnt/") for value in overrides if "/" in value)
    assert not [path for path in _paths(settings) if not path.is_absolute()]
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    if name == "own":
        assert settings.pretrain.scale.num_workers == settings.train.scale.num_workers == group["replicas"]
        assert settings.pretrain.scale.max_failures == settings.train.scale.max_failures == 3
    if program == "train":
        workers = (settings.scale.min_workers, settings.scale.num_workers)
        assert (group["minReplicas"], group["maxReplicas"]) == workers


def test_the_image_has_the_ray_of_the_constraints_and_is_not_root() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    assert f"FROM rayproject/ray:{metadata.version('ray')}-py311-gpu" in text
    assert re.findall(r"^USER (\w+)", text, re.MULTILINE)[-1] == "ray"
    for copied in re.findall(r"^COPY --chown=1000:100 (.+) \S+$", text, re.MULTILINE):
        for name in copied.split():
            assert (ROOT / name).exists(), name
            assert f"!{name}" in (ROOT / ".dockerignore").read_text(), name
