"""The cluster files are valid for the pinned Ray and closed to strangers; as they stand they are refused."""

from __future__ import annotations

import json
import os
import re
import tomllib
from importlib import metadata, util
from pathlib import Path

import jsonschema
import pytest
import yaml

from pipelines import KEEPALIVE
from pipelines.cluster_file import ARM
from pipelines.launch import main

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


@pytest.mark.parametrize("name", ["cluster.yaml", "deploy/cluster-local.yaml"])
def test_calls_to_a_machine_that_vanished_end(name: str) -> None:
    """Ray's own patience is seven minutes, or endless; the programs set the same for themselves."""
    assert int(KEEPALIVE["RAY_grpc_client_keepalive_time_ms"]) > 60_000  # Ray takes one a minute
    file = yaml.safe_load((ROOT / name).read_text())
    starts = [
        command
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in file[key]
        if "ray start" in command
    ]
    assert len(starts) == 2
    for command in starts:
        for variable, value in KEEPALIVE.items():
            assert f" {variable}={value} " in command
            assert os.environ[variable] == value


def test_a_stopped_job_has_time_to_save_its_state(cluster: dict[str, object]) -> None:
    from ray.dashboard.modules.job import job_supervisor

    name = "RAY_JOB_STOP_WAIT_TIME_S"
    assert name in Path(job_supervisor.__file__).read_text(), "Ray reads it under this name"
    commands = cluster["head_start_ray_commands"]
    assert isinstance(commands, list)
    assert any(f" {name}=120 " in command and "ray start --head" in command for command in commands)


# ---- python -m pipelines.launch --check --------------------------------------------------------------------

FILES = ["cluster.yaml", "deploy/cluster-local.yaml"]
FILLED = {
    "ami-00000000000000000": "ami-0123456789abcdef0",
    "sg-00000000000000000": "sg-0123456789abcdef0",
    "fs-00000000": "fs-01234567",
    "::000000000000:": "::123456789012:",
    "192.0.2.": "10.0.0.",
}


def _filled(name: str) -> str:
    text = (ROOT / name).read_text()
    for placeholder, value in FILLED.items():
        text = text.replace(placeholder, value)
    return text


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a token."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    return tmp_path


@pytest.mark.parametrize("name", FILES)
def test_the_copy_for_pip_leaves_out_what_jobs_leave_out(name: str) -> None:
    """By a filter that lies in this folder: an exclude would hold for data that are copied, too."""
    file = yaml.safe_load((ROOT / name).read_text())
    assert "." in file["file_mounts"].values()
    assert file["rsync_filter"] == [".rayignore"]
    assert "rsync_exclude" not in file
    loose = {
        line.strip("/*")
        for line in (ROOT / ".rayignore").read_text().splitlines()
        if line and not line.startswith(("#", "/"))
    }
    code = {
        part
        for folder in ("safa", "pipelines")
        for each in (ROOT / folder).rglob("*.py")
        for part in each.parts
    }
    assert not loose & code, "a pattern without a slash before it leaves out folders everywhere"


@pytest.mark.parametrize("name", FILES)
def test_a_filled_in_file_is_ready(name: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "cluster.yaml").write_text(_filled(name))
    assert main(["--check", str(home / "cluster.yaml")]) == 0
    assert "ready for `ray up" in capsys.readouterr().out


def test_subnets_are_keys_of_ray(home: Path) -> None:
    text = _filled("cluster.yaml").replace(
        "ImageId: *image", "ImageId: *image\n      SubnetIds: [subnet-01234567]"
    )
    (home / "cluster.yaml").write_text(text)
    assert main(["--check", str(home / "cluster.yaml")]) == 0


def test_commands_inside_the_containers_have_the_token(cluster: dict[str, object]) -> None:
    docker = cluster["docker"]
    assert isinstance(docker, dict)
    assert "-e RAY_AUTH_MODE=token" in docker["run_options"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("placeholder", FILLED)
def test_each_placeholder_is_refused_with_its_place(
    name: str, placeholder: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if placeholder not in (ROOT / name).read_text():
        pytest.skip(f"{name} has no {placeholder}")
    text = (ROOT / name).read_text()
    for other, value in FILLED.items():
        text = text if other == placeholder else text.replace(other, value)
    (home / "cluster.yaml").write_text(text)
    assert main(["--check", str(home / "cluster.yaml")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "to be filled in: " in error


WRONG = {
    "key": (("max_workers: 24", "max_wrokers: 24"), "max_wrokers"),
    "no token on workers": (
        ("RAY_AUTH_MODE=token RAY_grpc", "RAY_grpc"),
        "without asking",
    ),
    "no token on the head": (("RAY_AUTH_MODE=token RAY_JOB", "RAY_JOB"), "without asking"),
    "no token mounted": (("/home/ray/.ray/auth_token", "/home/ray/elsewhere"), "no node gets the token"),
    "open dashboard": (("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0"), "would listen at 0.0.0.0"),
    "open folder": (("sudo chmod 2770", "sudo chmod a+rwx"), "everyone could write"),
    "open folder in octal": (("sudo chmod 2770", "sudo chmod 777"), "everyone could write"),
    "another Ray": (("ray:2.60.0-py311\n", "ray:2.9.0-py311\n"), "is not of Ray 2.60.0"),
    "no such head": (
        ("head_node_type: head", "head_node_type: hed"),
        "there is no node type 'hed'. Use one of head",
    ),
    "another region": (("efs.us-west-2", "efs.eu-west-1"), "is not in us-west-2"),
    "another Python": (
        ("2.60.0-py311-gpu", "2.60.0-py312-gpu"),
        "several Pythons: -py311, -py312",
    ),
    "no image": (("ImageId: *image", "KeyName: mine"), "there is no ImageId"),
    "no region": (("  region: us-west-2\n", ""), "there is no region. Write region:"),
    "no such image": (("ami-0123456789abcdef0", "ami-XXXX"), "node_config.ImageId: 'ami-XXXX' is none"),
    "a name for a profile": (
        ("arn:aws:iam::123456789012:instance-profile/safa-node", "safa-node"),
        "node_config.IamInstanceProfile.Arn: 'safa-node' is none",
    ),
    "a resource that Ray does not know": (("{CPU: 0}", "{CPUs: 0}"), "knows no 'CPUs'. Write CPU."),
    "a zone for a region": (("  region: us-west-2", "  region: us-west-2a"), "'us-west-2a' is no region"),
    "a zone of another region": (
        ("  region: us-west-2", "  region: us-west-2\n  availability_zone: us-west-2a,eu-west-1b"),
        "'eu-west-1b' is not in us-west-2",
    ),
    "nothing mounted": (
        ("  - mountpoint -q /mnt/shared", "  # - mountpoint -q"),
        "nothing is mounted at /mnt/s",
    ),
    "a file system without its address": (
        ("fs-01234567.efs.us-west-2.amazonaws.com:/", "fs-01234567:/"),
        "there is no address in",
    ),
    "a file system that is none": (("fs-01234567.efs", "fs-123.efs"), "there is no file system in"),
    "a group by its name": (("[sg-0123456789abcdef0]", "[safa]"), "'['safa']' is no list of ids"),
    "a group that is no list": (("[sg-0123456789abcdef0]", "sg-0123456789abcdef0"), "is no list of ids"),
    "a type that is none": (("m6i.2xlarge", "m6i-2xlarge"), "InstanceType: 'm6i-2xlarge' is none"),
    "no workers": (("max_workers: 24", "max_workers: 0"), "no worker may start"),
    "an ARM machine": (("m6i.2xlarge", "m7g.2xlarge"), "'m7g.2xlarge' is an ARM machine"),
    "a typo for EC2": (
        ("InstanceMarketOptions: &spot", "InstanceMarketOption: &spot"),
        "EC2 knows no 'InstanceMarketOption'. Write InstanceMarketOptions.",
    ),
    "more at least than at most": (
        ("    min_workers: 0\n    max_workers: 8", "    min_workers: 9\n    max_workers: 8"),
        "gpu_pool: min_workers 9 is above max_workers 8",
    ),
    "no shared folder": (
        ("    - -v /mnt/shared:/mnt/shared", "    - -v /mnt/own:/mnt/own"),
        "sees no /mnt/shared",
    ),
    "no YAML": (("cluster_name: safa", "cluster_name: [safa"), "cannot be read"),
}


@pytest.mark.parametrize(
    "name", ["m6i.large", "c6id.8xlarge", "g6.4xlarge", "g4dn.xlarge", "p4d.24xlarge", "trn1.2xlarge"]
)
def test_machines_with_a_g_in_their_names_are_not_all_arm(name: str) -> None:
    assert not ARM.match(name)
    for arm in (
        "m7g.large",
        "c7gn.large",
        "m6gd.metal",
        "g5g.xlarge",
        "t4g.nano",
        "x2gd.large",
        "im4gn.large",
    ):
        assert ARM.match(arm)


def test_ray_fills_in_what_the_machines_have() -> None:
    """So the file does not say it a second time, and wrongly after a change of the type."""
    moto = pytest.importorskip("moto")
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    cluster = yaml.safe_load(_filled("cluster.yaml"))
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "test")
    with pytest.MonkeyPatch.context() as patch, moto.mock_aws():
        for key, value in keys.items():
            patch.setenv(key, value)
        types = AWSNodeProvider.fillout_available_node_types_resources(cluster)["available_node_types"]
    assert types["head"]["resources"]["CPU"] == 0
    assert types["cpu_pool"]["resources"]["CPU"] == 32
    assert {name: types["gpu_pool"]["resources"][name] for name in ("CPU", "GPU")} == {"CPU": 16, "GPU": 1}


@pytest.mark.parametrize("case", WRONG)
def test_what_would_cost_money_or_safety_is_one_line(
    case: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (before, after), message = WRONG[case]
    text = _filled("cluster.yaml")
    assert before in text
    (home / "cluster.yaml").write_text(text.replace(before, after))
    assert main(["--check", str(home / "cluster.yaml")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_token_must_be_made_first(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / ".ray" / "auth_token").unlink()
    (home / "cluster.yaml").write_text(_filled("cluster.yaml"))
    assert main(["--check", str(home / "cluster.yaml")]) == 2
    assert "Run: ray get-auth-token --generate" in capsys.readouterr().err


def test_the_installed_extras_are_those_that_the_configs_need() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name in FILES:
        (found,) = re.findall(r"pip install .*\[([\w,]+)\]", (ROOT / name).read_text())
        assert set(found.split(",")) == {"dlib", "download", "faces", "imagenet"} <= set(extras)
    (found,) = re.findall(r"pip install .*\[([\w,]+)\]", (ROOT / "docs" / "data.md").read_text())
    assert found == "dlib,download,faces,imagenet"


def test_all_places_that_are_to_be_filled_in_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", str(ROOT / "cluster.yaml")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for name in ("fs-00000000", "ami-00000000000000000", "sg-00000000000000000", "::000000000000:"):
        assert f"'{name}' at " in error


def test_the_readme_submits_into_the_folder_that_all_nodes_mount() -> None:
    readme, text = (ROOT / "README.md").read_text(), (ROOT / "cluster.yaml").read_text()
    (folder,) = set(re.findall(r"--set run=(/mnt/\w+)/", readme))
    assert f"-v {folder}:{folder}" in text
    assert "ray get-auth-token --generate" in readme
