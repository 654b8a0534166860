"""Programs as their users start them: two in one folder, and machines that do not see the folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pipelines.lease import exclusive
with exclusive(sys.argv[1]):
    print("held", flush=True)
    time.sleep(120)
"""
# The least program that has an output folder, on a cluster of a driver's node and one that lacks the mount.
PROGRAM = """
import subprocess, sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from pipelines.launch import launch, ray_session
from pipelines.lease import exclusive
from pipelines.shared_folder import Checked, shared
from safa.config import Settings

class Program(Settings):
    out: Path
    late: bool

class Writer:
    def __init__(self, out):
        self.out = out

    def __call__(self, row):
        Path(self.out, str(row["item"])).touch()
        return row

def join_blind_node(address, out):
    command = f"mount -t tmpfs none {out} && exec {sys.executable} -m ray.scripts.scripts start --block "
    command += f"--address={address} --num-cpus=1 --resources='{{\\"blind\\": 1}}'"
    with open(out + ".log", "w") as log:
        process = subprocess.Popen([*sys.argv[1].split(), "sh", "-c", command], stdout=log, stderr=log)
    cluster.wait_for_nodes()
    import time
    until = time.monotonic() + 90
    while len([n for n in ray.nodes() if n["Alive"]]) < 2:
        assert process.poll() is None and time.monotonic() < until, Path(out + ".log").read_text()
        time.sleep(0.2)
    return process

def body(config):
    nodes = []
    try:
        with exclusive(config.out), ray_session():
            if not config.late:
                nodes.append(join_blind_node(cluster.address, str(config.out)))
            with shared(config.out) as probe:
                if config.late:
                    nodes.append(join_blind_node(cluster.address, str(config.out)))
                rows = ray.data.from_items([{"item": n} for n in range(3)])
                done = rows.map(
                    Checked,
                    fn_constructor_args=((probe,), Writer, str(config.out)),
                    compute=ray.data.ActorPoolStrategy(size=1),
                    num_cpus=0.1,
                    resources={"blind": 0.1},
                )
                print("rows", len(list(done.iter_rows())))
    finally:
        for node in nodes:
            node.terminate()

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
import os
os.environ["RAY_ADDRESS"] = cluster.address
code = launch("program", "A test.", Program, body, sys.argv[2:], check=lambda config: "")
cluster.shutdown()
sys.exit(code)
"""

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


def _run(
    *arguments: str, cwd: Path = ROOT, timeout: float = 200, **changes: str
) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | changes
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is at work in ``tmp_path / run``."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_start_into_a_folder_is_refused_in_one_line(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = _run("-m", "pipelines.demo", "--config", "configs/smoke/demo.yaml", "--set", f"run={run}")
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {run}: another program is at work here (process {holder.pid}). Wait for it, or stop it.\n"
    )
    assert [path.name for path in run.iterdir()] == [".lock"]


def test_a_relative_output_is_refused_in_a_job(tmp_path: Path) -> None:
    config = str(ROOT / "configs" / "smoke" / "demo.yaml")
    job = '{"metadata": {"job_submission_id": "raysubmit_1"}}'
    done = _run("-m", "pipelines.demo", "--config", config, cwd=tmp_path, RAY_JOB_CONFIG_JSON_ENV_VAR=job)
    assert done.returncode == 2
    assert done.stderr == (
        "error: run: 'runs/smoke/demo' is relative, and a job works in a folder that Ray deletes. Give an "
        "absolute path that all machines share, e.g. --set run=/mnt/shared/runs/smoke/demo.\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def own_mounts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The command that starts another in a mount namespace of its own."""
    folder = tmp_path_factory.mktemp("mount")
    for command in (["unshare", "-m"], ["unshare", "-rm"]):
        try:
            tried = subprocess.run(
                [*command, "mount", "-t", "tmpfs", "none", str(folder)], capture_output=True
            )
        except OSError:
            break
        if tried.returncode == 0:
            return " ".join(command)
    pytest.skip("this machine allows no private mounts (unshare -m)")


@pytest.mark.slow
@pytest.mark.parametrize(
    "late",
    [
        pytest.param(False, id="from the start"),
        pytest.param(True, id="joins later", marks=pytest.mark.soak),
    ],
)
def test_a_node_that_lacks_the_mount_ends_the_run_before_work(
    late: bool, own_mounts: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (tmp_path / "config.yaml").write_text(f"out: {out}\nlate: {str(late).lower()}\n")
    done = _run(
        "-c", PROGRAM, own_mounts, "--config", str(tmp_path / "config.yaml"), RAY_AUTH_MODE="disabled"
    )
    assert done.returncode == 2, done.stderr[-3000:]
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, done.stderr[-3000:]
    assert f"does not see {out}. Mount it on every machine" in errors[0]
    assert "rows" not in done.stdout
    assert "Traceback" not in done.stderr
    assert not out.exists()  # the probe is gone, and nothing was made
