"""docs/cluster.md and docs/kubernetes.md: all that can be checked without AWS and Kubernetes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from ray.scripts.scripts import cli

from pipelines.launch import main as launch
from safa.config import Settings, load_settings
from safa.config.demo import DemoConfig
from safa.config.inference import EvaluateConfig
from safa.config.preprocess import PreprocessConfig
from safa.config.training import TrainConfig
from tests.contract.test_kuberay_files import known_to_kubernetes

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
KUBERNETES = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
JOBS = ROOT / "deploy" / "kuberay"


def commands(text: str) -> list[list[str]]:
    """The words of each command of the shell blocks, less ``&``, comments and an input of nothing."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").replace("< /dev/null", "").splitlines()
    return [[w for w in shlex.split(line, comments=True) if w != "&"] for line in lines if line.strip()]


def of_ray(text: str) -> list[list[str]]:
    return [words[1:] for words in commands(text) if words[0] == "ray"]


@pytest.mark.parametrize("words", of_ray(TEXT) + of_ray(README), ids=" ".join)
def test_ray_knows_its_commands_and_options(words: list[str]) -> None:
    command: click.Command = cli
    while isinstance(command, click.Group):
        command, words = command.commands[words[0]], words[1:]
    # Parsed as ray does it, which runs nothing.
    command.make_context(command.name, list(words))


def test_the_readme_submits_the_same_job() -> None:
    jobs = [_jobs(text)[0] for text in (TEXT, README)]
    assert jobs[0] == jobs[1]
    assert jobs[0][:4] == ["python", "-m", "pipelines.demo", "--config"]
    load_settings(ROOT / jobs[0][4], DemoConfig, [jobs[0][6]])
    (asked,) = [words for words in of_ray(TEXT) if words[0] == "dashboard"]
    assert asked in of_ray(README)


def _jobs(text: str) -> list[list[str]]:
    return [words[words.index("--") + 1 :] for words in of_ray(text) if "--" in words]


def test_all_jobs_have_settings_that_exist() -> None:
    settings: dict[str, type[Settings]] = {
        "pipelines.demo": DemoConfig,
        "pipelines.preprocess": PreprocessConfig,
        "pipelines.train": TrainConfig,
        "pipelines.evaluate": EvaluateConfig,
    }
    jobs = _jobs(TEXT)
    assert {job[2] for job in jobs} == set(settings)
    assert len(jobs) == 12
    for job in jobs:
        load_settings(ROOT / job[4], settings[job[2]], [word for word in job[5:] if word != "--set"])


def _entrypoint(name: str) -> list[str]:
    entrypoint: str = yaml.safe_load((JOBS / f"{name}.yaml").read_text())["spec"]["entrypoint"]
    return entrypoint.replace("/home/ray/safa/", "").split()


def test_the_jobs_of_aws_and_kubernetes_are_the_same() -> None:
    jobs = _jobs(TEXT)
    assert {"smoke", "own"} <= {name for name in ("smoke", "own", "preprocess") if _entrypoint(name) in jobs}
    (preprocess,) = [job for job in jobs if job[2] == "pipelines.preprocess" and "/mnt/" in job[-1]]
    assert _entrypoint("preprocess") == preprocess


def test_what_replaces_lines_of_the_kuberay_files_fits_them() -> None:
    """Each `--set` of the table goes into the entrypoint of preprocess.yaml."""
    rows = [line for line in KUBERNETES.splitlines() if line.startswith("|")]
    asked = [shlex.split(text) for row in rows for text in re.findall(r"`(--set .*?)`", row)]
    asked = [words for words in asked if not words[1].startswith("evaluate.")]
    assert len(asked) == 4
    words = _entrypoint("preprocess")[5:]
    given = [word for word in words if word != "--set"]
    landmarks = [word for word in given if word.startswith("landmarks")]
    assert len(landmarks) == 2, "the two lines about them"
    for _, change in asked:
        kept = [word for word in given if not (change.startswith("landmarks=") and word in landmarks)]
        load_settings(ROOT / "configs" / "preprocess.yaml", PreprocessConfig, [*kept, change])


def test_the_check_in_the_pod_is_that_of_the_job() -> None:
    (words,) = [words for words in commands(KUBERNETES) if "--check" in words]
    assert words[:4] == ["kubectl", "exec", "safa-files", "--"]
    job = [word.replace("/home/ray/safa/", "") for word in words[4:] if word != "--check"]
    assert job == _entrypoint("preprocess")


def test_all_commands_of_kubernetes_name_files_that_are_there() -> None:
    for name in re.findall(r"`?((?:deploy|configs)/[\w./-]+\.\w+)", KUBERNETES):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`(\w+)\.yaml`", KUBERNETES):
        folders = (JOBS, ROOT / "deploy" / "kubernetes")
        assert any((folder / f"{name}.yaml").exists() for folder in folders), name
    (sed, other) = [words for words in commands(KUBERNETES) if words[0] == "sed"]
    pattern = sed[2].split("#")[1]
    for image in ("image: REGISTRY/safa:0.1.0", "image: &image registry.example.com:5000/me/safa:0.1.1"):
        assert re.search(pattern, image)[0] == image.split()[-1]  # type: ignore[index]
    claim = (ROOT / "deploy" / "kubernetes" / "claim.yaml").read_text()
    assert len(re.findall(other[2].split("#")[1], claim)) == 1
    files = [*JOBS.glob("*.yaml"), *(ROOT / "deploy" / "kubernetes").glob("*.yaml")]
    with_image = {path for path in files if "REGISTRY/safa:0.1.0" in path.read_text()}
    assert with_image == {*JOBS.glob("*.yaml"), ROOT / "deploy" / "kubernetes" / "files.yaml"}
    assert [path.name for path in files if "SHARED-CLASS" in path.read_text()] == ["claim.yaml"]


def test_the_claim_is_that_of_all_pods() -> None:
    claim = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "claim.yaml").read_text())
    known_to_kubernetes(claim, "V1PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for path in (*JOBS.glob("*.yaml"), ROOT / "deploy" / "kubernetes" / "files.yaml"):
        names = re.findall(r"claimName: (\S+)", path.read_text())
        assert set(names) == {claim["metadata"]["name"]}, path.name


def test_a_second_ray_starts_as_written(tmp_path: Path) -> None:
    """Ray refuses ports that are used twice, or lie among those of its workers, before anything starts."""
    from ray._private.parameter import RayParams

    (words,) = [words for words in of_ray(TEXT) if words[:2] == ["start", "--head"]]
    ports = {name: int(port) for name, port in (word[2:].split("=") for word in words[2:] if "port=" in word)}
    params = RayParams(
        redis_port=ports["port"],
        dashboard_port=ports["dashboard-port"],
        dashboard_agent_listen_port=ports["dashboard-agent-listen-port"],
        ray_client_server_port=ports["ray-client-server-port"],
        min_worker_port=10002,
        max_worker_port=19999,
    )
    params.update_pre_selected_port()
    params.ray_client_server_port = 10011
    with pytest.raises(ValueError, match="10011 that is used by other components"):
        params.update_pre_selected_port()


def test_the_check_is_that_of_the_launcher(capsys: pytest.CaptureFixture[str]) -> None:
    (words,) = [words for words in commands(TEXT) if words[:3] == ["python", "-m", "pipelines.launch"]]
    assert launch([*words[3:-1], str(ROOT / words[-1])]) == 2
    assert "to be filled in: " in capsys.readouterr().err


def test_the_rule_of_the_bucket_is_one_that_s3_takes() -> None:
    boto3 = pytest.importorskip("boto3")
    moto = pytest.importorskip("moto")
    (rule,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    with moto.mock_aws():
        s3: Any = boto3.client("s3", **keys)
        s3.create_bucket(Bucket="data")
        s3.put_bucket_lifecycle_configuration(Bucket="data", LifecycleConfiguration=json.loads(rule))
        (stored,) = s3.get_bucket_lifecycle_configuration(Bucket="data")["Rules"]
    assert stored["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 2}


def test_the_pod_for_copies_is_valid_and_has_the_volume() -> None:
    pod = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "files.yaml").read_text())
    known = known_to_kubernetes(pod, "V1Pod")
    assert f"pod/{known.metadata.name}" in KUBERNETES
    job = yaml.safe_load((ROOT / "deploy" / "kuberay" / "preprocess.yaml").read_text())
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert pod["spec"]["securityContext"] == head["securityContext"]
    (container,) = pod["spec"]["containers"]
    assert container["image"] == head["containers"][0]["image"]
    assert container["volumeMounts"][0] in head["containers"][0]["volumeMounts"]
    assert pod["spec"]["volumes"][0] in head["volumes"]


def test_what_it_names_is_there() -> None:
    for name in re.findall(r"`((?:deploy|pipelines)/[\w./-]+)`", TEXT):
        assert (ROOT / name).exists(), name
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    folders = [each.split(":")[1] for each in cluster["docker"]["run_options"] if each.startswith("-v ")]
    for folder in ("/mnt/shared", "/mnt/nvme"):
        assert folder in TEXT
        assert folder in folders
