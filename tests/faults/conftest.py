"""A cluster of several raylets on this machine, and the programs at the smallest size, as users run them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ray.cluster_utils import Cluster
from torch import nn

from safa.checkpoint.native import ModelInfo, read_model_weights, save_model
from safa.config import ModelConfig, parse_settings
from safa.data.video import write_video
from safa.files import join, read_bytes
from safa.head import load_head_assets
from safa.models.safa import Safa
from safa.training.metrics_logger import read_metrics

ROOT = Path(__file__).parents[2]
ENDS_WITHIN = 240  # seconds, for any of these runs
PROGRAMS = ("preprocess", "train", "evaluate")


@dataclass
class Program:
    """One program with its settings; ``start`` runs it against a cluster, or on this machine alone."""

    name: str
    settings: dict[str, Any]
    folder: Any  # where its output goes: a path, or a URI for ``outcome``
    address: str = ""
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.folder.with_name(f"{self.folder.name}.log")

    def start(self, prefix: Sequence[str] = (), **changes: str) -> subprocess.Popen[bytes]:
        """Start it in the background, maybe by another command; the log of an earlier start is continued."""
        path = self.folder.with_name(f"{self.folder.name}.yaml")
        path.write_text(yaml.safe_dump(self.settings))
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        environment |= {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
        environment |= {"RAY_ADDRESS": self.address} if self.address else {}
        command = [*prefix, sys.executable, "-m", f"pipelines.{self.name}", "--config", str(path)]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, env=environment | changes, stdout=log, stderr=log)

    def run(self, **changes: str) -> int:
        """Run it to its end. Returns the exit code."""
        return self.end(self.start(**changes))

    def end(self, process: subprocess.Popen[bytes]) -> int:
        """Wait for its end. Returns the exit code."""
        try:
            return process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"hangs:\n{self.tail()}") from None

    def until_halfway(self, process: subprocess.Popen[bytes]) -> None:
        """Until the first output is there."""
        deadline = time.monotonic() + ENDS_WITHIN
        while not self._has_begun():
            assert process.poll() is None, f"ended before the fault:\n{self.tail()}"
            assert time.monotonic() < deadline, f"no output in time:\n{self.tail()}"
            time.sleep(0.02)

    def _has_begun(self) -> bool:
        if self.name == "train":
            return any(self.folder.glob("checkpoints/step-*"))
        if self.name == "preprocess":
            return any(self.folder.glob("clips/index/*.arrow"))
        return any(self.folder.glob("results/part-*.parquet"))

    def tail(self) -> str:
        """The end of the log."""
        return self.log.read_text(errors="replace")[-6000:]

    def errors(self) -> list[str]:
        """The lines for people that say what went wrong."""
        return [line for line in self.log.read_text().splitlines() if line.startswith("error:")]


class Raylets:
    """A head without CPUs, where the program runs, and nodes of one CPU that can be lost."""

    def __init__(self, count: int = 2, **node: Any) -> None:
        self._node = {"num_cpus": 1, "object_store_memory": 150 * 2**20, **node}
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": 150 * 2**20},
        )
        self._nodes = [self._cluster.add_node(**self._node) for _ in range(count)]
        self._blind: list[subprocess.Popen[bytes]] = []
        self.address: str = self._cluster.address

    def lose(self, number: int = -1, *, replaced: bool) -> None:
        """Kill all processes of a node at once; maybe another one joins."""
        self._cluster.remove_node(self._nodes.pop(number), allow_graceful=False)
        if replaced:
            self._nodes.append(self._cluster.add_node(**self._node))

    def kill_a_worker(self, of: re.Pattern[str]) -> bool:
        """Kill one process of ours whose title matches; whether there was one."""
        raylets = [
            info.process.pid
            for node in self._nodes
            for infos in node.all_processes.values()
            for info in infos
        ]
        listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
        for line in listed.stdout.splitlines():
            pid, parent, title = line.split(maxsplit=2)
            if int(parent) in raylets and of.search(title):
                os.kill(int(pid), signal.SIGKILL)
                return True
        return False

    def drain_the_worker(self, of: re.Pattern[str]) -> int:
        """Give the node that runs such a process notice that it will be taken away. Returns its number."""
        deadline = time.monotonic() + 60
        while (number := self._runs(of)) is None:  # between two tasks a worker has another name
            assert time.monotonic() < deadline, "no node runs such a process"
            time.sleep(0.05)
        command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
        command += ["--address", self.address, "--node-id", self._nodes[number].node_id]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test"]
        command += ["--deadline-remaining-seconds", "30"]
        subprocess.run(command, check=True, env={**os.environ, "RAY_AUTH_MODE": "disabled"})
        return number

    def _runs(self, of: re.Pattern[str]) -> int | None:
        """The number of the first node that runs such a process now."""
        listed = subprocess.run(["ps", "-eo", "ppid=,args="], capture_output=True, text=True, check=True)
        parents = {int(line.split(maxsplit=1)[0]) for line in listed.stdout.splitlines() if of.search(line)}
        for number, node in enumerate(self._nodes):
            if parents & {info.process.pid for infos in node.all_processes.values() for info in infos}:
                return number
        return None

    def add_without(self, folder: Path) -> None:
        """Add a node that has something else mounted at a folder, or skip where no mounts are allowed."""
        tried = subprocess.run(["unshare", "-m", "true"], capture_output=True, text=True)
        if tried.returncode != 0:
            pytest.skip(f"this machine allows no private mounts ({tried.stderr.strip()})")
        start = f"{sys.executable} -m ray.scripts.scripts start --block --address={self.address} --num-cpus=1"
        command = ["unshare", "-m", "sh", "-c", f"mount -t tmpfs none {folder} && exec {start}"]
        log = folder.with_name("blind.log")
        with log.open("w") as file:
            node = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        self._blind.append(node)
        deadline = time.monotonic() + 120
        while log.read_text().count("Ray runtime started") == 0:
            assert node.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    def close(self) -> None:
        """End all of it."""
        for node in self._blind:
            os.killpg(node.pid, signal.SIGTERM)
            node.wait(30)
        self._cluster.shutdown()


@pytest.fixture
def raylets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Raylets]]:
    """``raylets(count=2, **node)``: a cluster, which ends with the test."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    started: list[Raylets] = []

    def start(count: int = 2, **node: Any) -> Raylets:
        started.append(Raylets(count, **node))
        return started[-1]

    yield start
    for each in started:
        each.close()


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory, tiny_clips: Path) -> dict[str, Path]:
    """Videos with landmarks, clips, and a model that has learned nothing."""
    root = tmp_path_factory.mktemp("inputs")
    (root / "videos").mkdir()
    for number in range(16):
        frames = (np.full((96, 128, 3), 40 + 8 * number + t % 5, np.uint8) for t in range(40))
        write_video(root / "videos" / f"p{number}#v#000000#000040.mp4", frames, 25.0)
        points = np.full((40, 68, 2), 45.0, np.float32) + np.arange(40, dtype=np.float32)[:, None, None]
        np.save(root / "videos" / f"p{number}#v#000000#000040.landmarks.npy", points)
    return {"videos": root / "videos", "clips": tiny_clips, "model": root / "run"}


@pytest.fixture
def program(inputs: dict[str, Path], tmp_path: Path, tiny_model: dict[str, Any]) -> Callable[..., Program]:
    """``program(name, out, address="", **settings)``: a program that writes into ``tmp_path / out``."""

    def make(name: str, out: str = "out", address: str = "", **changes: Any) -> Program:
        folder = tmp_path / out
        if name == "preprocess":
            settings = {
                "source": {"kind": "clips", "folder": str(inputs["videos"])},
                **{"out": str(folder), "size": 32, "min_frames": 10, "min_box": 40},
            }
        elif name == "train":
            settings = {
                **{"runs": str(folder.parent), "name": folder.name, "model": tiny_model},
                "data": {"clips": str(inputs["clips"]), "batch_size": 2, "num_repeats": 2, "cache_mb": 1},
                "stage": {"kind": "head"},
                "schedule": {"unit": "steps", "length": 60},
                "checkpoint": {"every": 5},
                "log_every": 10,  # on Ray, two lines of the log are at least two seconds apart
                "scale": {"num_workers": 1, "cpus_per_worker": 0.5, "max_failures": 3},
            }
        else:
            if not inputs["model"].exists():
                torch.manual_seed(0)
                sizes = parse_settings({**tiny_model, "num_keypoints": 4}, ModelConfig, "test")
                model = Safa(sizes, load_head_assets(sizes.head))
                nn.init.normal_(model.tdmm.encoder.fc.weight, std=0.02)
                save_model(inputs["model"] / "model", model, ModelInfo("full", sizes, 7, "test"))
            settings = {
                **{"model": str(inputs["model"]), "clips": str(inputs["clips"]), "out": str(folder)},
                "splits": ["train", "test"],
                "animation": {"pairs": 6},
                "scale": {"window": 2},  # so many pieces of work that a fault meets some
                "visuals": {"panel": 32, "strip_frames": 2},
            }
        return Program(name, {**settings, **changes}, folder, address)

    return make


@pytest.fixture
def outcome(stored_rows: Callable[[Path], dict[str, str]]) -> Callable[[Program], Any]:
    """``outcome(program)``: what must be equal after a fault: rows, weights and losses, or scores."""

    def look(program: Program) -> Any:
        if program.name == "preprocess":
            return stored_rows(program.folder)
        if program.name == "train":
            weights = read_model_weights(join(program.folder, "model"))[0]
            rows = read_metrics(join(program.folder, "metrics.jsonl"))
            losses = [row["losses"] for row in rows if row["kind"] == "train"]
            return {name: value.numpy().tobytes() for name, value in weights.items()}, losses
        numbers = json.loads(read_bytes(join(program.folder, "metrics.json")))
        return {
            key: _rounded(value)
            for key, value in numbers.items()
            if key not in ("seconds", "hashes", "versions")
        }

    return look


def _rounded(value: Any) -> Any:
    """Numbers to ten digits: windows are added in the order of the parts, which a fault changes."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return float(f"{value:.10g}") if isinstance(value, float) else value


@pytest.fixture(scope="session")
def calm() -> dict[str, Any]:
    """Outcomes of undisturbed runs, by the program's name: each is run once."""
    return {}


@pytest.fixture
def undisturbed(
    program: Callable[..., Program], outcome: Callable[[Program], Any], calm: dict[str, Any]
) -> Callable[[str], Any]:
    """``undisturbed(name)``: the outcome of a run on this machine, without any fault."""

    def run(name: str) -> Any:
        if name not in calm:
            alone = program(name, "undisturbed")
            assert alone.run() == 0, alone.tail()
            calm[name] = outcome(alone)
        return calm[name]

    return run
