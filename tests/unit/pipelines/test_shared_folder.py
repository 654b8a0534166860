"""The probe: who sees it, who cannot, and what is left of it; relative outputs in jobs."""

from __future__ import annotations

import itertools
import json
import pickle
from pathlib import Path

import pytest

from pipelines import shared_folder
from pipelines.lease import job_id
from pipelines.shared_folder import PROBE, Checked, Probe, refuse_relative_outputs, shared
from safa.config import Settings
from safa.errors import UserError
from safa.files import Location, entries, exists

JOB = json.dumps({"runtime_env": {}, "metadata": {"job_submission_id": "raysubmit_1"}})


class Program(Settings):
    out: Location


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_folder, "LOOK_FOR", 0.0)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    shared_folder._see.cache_clear()


def _probes(folder: Location) -> list[str]:
    return [entry.name for entry in entries(folder) if entry.name.startswith(PROBE)]


@pytest.mark.parametrize("kind", ["disk", "store"])
def test_a_probe_is_seen_and_goes_with_the_run(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "run" if kind == "disk" else request.getfixturevalue("s3")
    with shared(folder) as probe:
        pickle.loads(pickle.dumps(probe)).check()
        assert len(_probes(folder)) == 1
    assert not exists(folder) or _probes(folder) == []


def test_a_relative_folder_is_looked_for_at_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with shared(Path("run")) as probe:
        monkeypatch.chdir("/")
        probe.check()


def test_a_process_that_does_not_see_the_folder_says_which_node_and_folder(tmp_path: Path) -> None:
    probe = Probe(str(tmp_path), f"{PROBE}nowhere")
    with pytest.raises(UserError, match=rf"^node \d+\.\d+\.\d+\.\d+ does not see {tmp_path}\. Mount it"):
        probe.check()
    assert probe.complaint().endswith(f"does not see {tmp_path}")


def test_probes_of_killed_runs_are_deleted(tmp_path: Path) -> None:
    (tmp_path / f"{PROBE}old").touch()
    with shared(tmp_path):
        assert len(_probes(tmp_path)) == 1
        assert not (tmp_path / f"{PROBE}old").exists()


def test_a_worker_is_not_even_made_where_the_folder_is_not_seen(tmp_path: Path) -> None:
    made: list[int] = []

    def worker(number: int):  # type: ignore[no-untyped-def]
        made.append(number)
        return lambda row: row + number

    blind = Checked([Probe(str(tmp_path), f"{PROBE}nowhere")], worker, 7)
    with pytest.raises(UserError, match="does not see"):
        blind(1)
    assert made == []
    with shared(tmp_path) as probe:
        seeing = Checked([probe], worker, 7)
        assert [seeing(1), seeing(2)] == [8, 9]
    assert made == [7]


@pytest.mark.parametrize(("out", "refused"), [("runs/x", True), ("/runs/x", False), ("s3://b/x", False)])
def test_relative_outputs_are_refused_in_jobs_alone(
    out: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Program(out=out if "://" in out else Path(out))
    refuse_relative_outputs(settings)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", JOB)
    assert job_id() == "raysubmit_1"
    if not refused:
        refuse_relative_outputs(settings)
        return
    with pytest.raises(UserError, match=r"'runs/x' is relative, .* --set out=/mnt/shared/runs/x"):
        refuse_relative_outputs(settings)


@pytest.mark.parametrize("config", ["", "{", "{}", '{"metadata": 3}', '{"metadata": {}}'])
def test_a_process_of_no_job_has_no_id(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", config)
    assert job_id() == ""


def test_a_worker_keeps_its_memory_and_freezes_what_the_first_call_has_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    monkeypatch.setattr(shared_folder, "_calls", itertools.count())
    monkeypatch.setattr(shared_folder, "keep_freed_memory", lambda: done.append("keep"))
    monkeypatch.setattr(shared_folder, "freeze_what_is_loaded", lambda: done.append("freeze"))
    worker = Checked((), lambda: lambda row: done.append(f"row {row}"))
    for row in range(3):
        worker(row)
    assert done == ["keep", "row 0", "freeze", "row 1", "row 2"]
