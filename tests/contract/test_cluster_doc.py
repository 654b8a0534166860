"""docs/cluster.md: what can be checked without AWS and Kubernetes is; the README says the same."""

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

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(text: str) -> list[list[str]]:
    """The words of each command of the shell blocks, less ``&`` and comments."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
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
    assert len(jobs) == 11
    for job in jobs:
        load_settings(ROOT / job[4], settings[job[2]], [word for word in job[5:] if word != "--set"])


def test_the_chain_of_own_videos_is_the_same_job_on_kubernetes() -> None:
    (block,) = [each for each in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL) if "entrypoint" in each]
    (job,) = [each for each in _jobs(TEXT) if each[4] == "configs/own_videos.yaml"]
    assert yaml.safe_load(block)["entrypoint"].replace("/home/ray/safa/", "").split() == job


def test_what_replaces_lines_of_the_kuberay_files_fits_them() -> None:
    """Each `--set` of the section goes into the entrypoint of the program that has such a key."""
    section = TEXT.partition("**Other inputs.**")[2].partition("\n## ")[0]
    inputs = [shlex.split(text) for text in re.findall(r"`(--set '?(?:source|landmarks).*?)`", section)]
    asked = [words[1] for words in inputs if "..." not in words[1]]
    assert len(asked) == 4
    for changes in (asked[:1], [*asked[1:2], *asked[:1]], asked[2:]):
        load_settings(ROOT / "configs" / "preprocess.yaml", PreprocessConfig, changes)
    (splits,) = re.findall(r"`--set (splits=.*?)`", section)
    load_settings(ROOT / "configs" / "evaluate.yaml", EvaluateConfig, [splits])
    (fewer,) = re.findall(r"`--set (data\..*?)`", section)
    for name in ("pretrain", "train"):
        load_settings(ROOT / "configs" / f"{name}.yaml", TrainConfig, [fewer])


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
    client = pytest.importorskip("kubernetes.client", reason="not installed: pip install kubernetes")
    api = client.ApiClient()
    known = api.deserialize(json.dumps(pod), "V1Pod", "application/json")
    assert api.sanitize_for_serialization(known) == pod
    assert f"pod/{known.metadata.name}" in TEXT
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
    for name in ("preprocess", "train", "evaluate"):
        job = yaml.safe_load((ROOT / "deploy" / "kuberay" / f"{name}.yaml").read_text())
        images = {
            container["image"]
            for group in (
                job["spec"]["rayClusterSpec"]["headGroupSpec"],
                *job["spec"]["rayClusterSpec"]["workerGroupSpecs"],
            )
            for container in group["template"]["spec"]["containers"]
        }
        assert all(f"-t {image} ." in TEXT for image in images)
        claims = re.findall(r"claimName: (\S+)", (ROOT / "deploy" / "kuberay" / f"{name}.yaml").read_text())
        assert set(claims) == {"safa-shared"}
        assert "`safa-shared`" in TEXT
