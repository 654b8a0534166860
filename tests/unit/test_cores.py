"""Numbers of workers, actors and threads on machines of 1, 2, 4, 8 and 16 cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from safa import cores
from safa.cores import Machine, Workers, cores_here, most_actors, workers_of, workers_on_gpus

GIB = 2.0**30


@pytest.mark.parametrize(
    ("cpus", "head", "full"),
    [
        (1, Workers(1, 0.9, 1), Workers(1, 0.9, 1)),
        (2, Workers(2, 0.9, 1), Workers(2, 0.9, 1)),
        (3, Workers(2, 0.9, 1), Workers(2, 0.9, 1)),
        (4, Workers(4, 0.9, 1), Workers(4, 0.9, 1)),
        (8, Workers(4, 1.8, 2), Workers(4, 1.8, 2)),
        (16, Workers(4, 3.6, 4), Workers(4, 3.6, 4)),
    ],
)
def test_the_demos_trainings_use_the_cores_there_are(cpus: int, head: Workers, full: Workers) -> None:
    """32 frames and 8 pairs a step."""
    assert workers_of([Machine(cpus)], 32, cores.LEAST_OF_A_WORKER["head"]) == head
    assert workers_of([Machine(cpus)], 8, cores.LEAST_OF_A_WORKER["full"]) == full


@pytest.mark.parametrize("total", [1, 3, 8, 30, 32])
@pytest.mark.parametrize("cpus", [1, 2, 5, 7, 16, 64])
def test_samples_are_shared_evenly_and_workers_fit(cpus: int, total: int) -> None:
    found = workers_of([Machine(cpus)], total, 2)
    assert total % found.count == 0
    assert found.count == 1 or total // found.count >= 2
    assert found.count * found.cpus <= cpus
    assert found.threads == max(1, cpus // found.count)


def test_threads_of_a_worker_are_on_one_machine() -> None:
    assert workers_of([Machine(3)] * 4, 32, 8) == Workers(4, pytest.approx(2.7), 3)
    assert workers_of([Machine(5), Machine(3)], 32, 8) == Workers(
        4, 0.9, 1
    )  # with 2 threads, 2 + 1 have room


def test_a_worker_has_a_gpu() -> None:
    assert workers_on_gpus([Machine(16, 8)], 32, 8) == 4
    assert workers_on_gpus([Machine(16, 2), Machine(4)], 32, 8) == 2
    assert workers_on_gpus([Machine(16)], 32, 8) == 1


@pytest.mark.parametrize(("cpus", "expected"), [(1, 1), (2, 2), (8, 8), (16, 16)])
def test_an_actor_a_core(cpus: int, expected: int) -> None:
    assert most_actors([Machine(cpus)], 0.9, 0.0) == expected
    assert most_actors([Machine(cpus)], 0.5, 0.0) == expected


def test_actors_need_room_on_their_machine_and_memory() -> None:
    assert most_actors([Machine(8), Machine(3)], 2.0, 0.0) == 5
    assert most_actors([Machine(16, 1), Machine(64)], 1.0, 0.25) == 4
    assert most_actors([Machine(16, memory=6 * GIB)], 1.0, 0.0) == 4
    assert most_actors([Machine(1, memory=1 * GIB)], 1.0, 0.0) == 1
    assert most_actors([Machine(2)], 8.0, 0.0) == 1
    assert most_actors([], 1.0, 0.0) == 1


def test_cores_are_those_of_the_process_and_its_container(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(cores, "QUOTA", tmp_path / "cpu.max")
    assert cores_here() == 6
    for quota, expected in (("max", 6), ("400000", 4), ("50000", 1), ("900000", 6)):
        cores.QUOTA.write_text(f"{quota} 100000")
        assert cores_here() == expected
