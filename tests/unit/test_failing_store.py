"""Answers 500 and 503 of an object store, and none at all: tried again, then one line, and nothing half."""

from __future__ import annotations

import time

import pytest

from pipelines.lease import exclusive
from safa.errors import UserError
from safa.files import exists, location, read_bytes, reporting_errors, write_json
from tests.conftest import _uri
from tests.failing_store import STALL, failing_store

pytestmark = [pytest.mark.slow]


@pytest.mark.parametrize("status", [500, 503])
def test_errors_that_pass_are_tried_again(s3_server: str, status: int) -> None:
    with failing_store(s3_server, status, lambda number: number % 3 < 2) as store:
        file = location(_uri(store.address, f"test/passing-{status}/a.json"))
        write_json(file, {"a": 1})
        assert b'"a": 1' in read_bytes(file)
        assert store.faults >= 4


def test_a_read_that_always_fails_is_one_line(s3_server: str) -> None:
    with failing_store(s3_server, 503) as store:
        _read(store.address, "HTTP status 503", within=60)


def test_a_bucket_that_is_not_there_is_named_as_such(object_store: str) -> None:
    """The first thing that a program writes into a folder is its lease: the line names the folder."""
    folder = location(_uri(object_store, "nobody/runs"))
    with pytest.raises(UserError, match="there is no such bucket") as caught, exclusive(folder):
        pytest.fail("a folder in no bucket")
    assert ".leases" not in str(caught.value)


@pytest.mark.soak
@pytest.mark.parametrize(("status", "reason"), [(500, "status 500"), (STALL, "Timeout was reached")])
def test_a_write_that_always_fails_is_one_line_and_leaves_nothing(
    s3_server: str, status: int, reason: str
) -> None:
    with failing_store(s3_server, status) as store:
        file = location(_uri(store.address, f"test/failing-{status}/a.json"))
        with pytest.raises(UserError, match=reason) as caught, reporting_errors(file):
            write_json(file, {"a": 1})
        assert len(str(caught.value).splitlines()) == 1
    assert not exists(location(_uri(s3_server, f"test/failing-{status}/a.json")))


@pytest.mark.soak
def test_a_read_that_stalls_ends_in_two_minutes(s3_server: str) -> None:
    with failing_store(s3_server, STALL) as store:
        _read(store.address, "Timeout was reached", within=180)


def _read(address: str, reason: str, *, within: float) -> None:
    file, began = location(_uri(address, "test/nothing.json")), time.monotonic()
    with pytest.raises(UserError, match=reason) as caught, reporting_errors(file):
        read_bytes(file)
    assert len(str(caught.value).splitlines()) == 1
    assert time.monotonic() - began < within
