"""A pool of actors always has room on the machines there are."""

from __future__ import annotations

import pytest

from pipelines.actor_pool import Pool, fitted
from safa.cores import Machine


def test_a_pool_starts_with_as_many_actors_as_have_room() -> None:
    pool = fitted(2.0, 0.0, (1, 16), 100, [Machine(8), Machine(3)])
    assert pool == Pool(2.0, 0.0, 1, 16, 5)  # four on one machine, one on the other


def test_no_more_actors_than_there_is_work() -> None:
    assert fitted(1.0, 0.0, (4, 16), 3, [Machine(32)]) == Pool(1.0, 0.0, 3, 3, 3)


def test_gpus_are_shared_in_fractions() -> None:
    pool = fitted(1.0, 0.25, (1, 16), 100, [Machine(16, 1), Machine(64)])
    assert (pool.least, pool.first, pool.gpus) == (1, 4, 0.25)


def test_machines_that_are_still_to_come_change_nothing() -> None:
    for nodes in ([], [Machine(1)]):
        assert fitted(4.0, 1.0, (2, 8), 100, nodes) == Pool(4.0, 1.0, 2, 8, 2)


def test_an_open_pool_may_grow_with_the_cluster() -> None:
    grown = [Machine(96, 8)] * 2
    assert fitted(1.0, 0.25, (1, None), 100, [], grown) == Pool(1.0, 0.25, 1, 64, 1)
    assert fitted(1.0, 0.25, (1, None), 10, [Machine(96, 8)], grown) == Pool(1.0, 0.25, 1, 10, 10)


@pytest.mark.parametrize("cpus", [1, 2, 8, 16])
def test_an_open_number_of_actors_follows_from_the_cores(cpus: int) -> None:
    assert fitted(0.9, 0.0, (1, None), 100, [Machine(cpus)]) == Pool(0.9, 0.0, 1, cpus, cpus)
    assert fitted(0.9, 0.0, (1, None), 1, [Machine(cpus)]) == Pool(0.9, 0.0, 1, 1, 1)
