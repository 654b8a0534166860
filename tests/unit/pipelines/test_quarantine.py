"""The quarantine keeps one row for each input, through runs that are killed at any point."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from pipelines.quarantine import Quarantine, counts_line
from safa.data.schema import QUARANTINE_SCHEMA
from safa.errors import Failure, FailureCode


def _rows(folder: Path) -> list[tuple[str, str, int]]:
    files = sorted(folder.glob("part-*.parquet"))
    rows = [row for path in files for row in pq.read_table(path).to_pylist()]
    return sorted((row["id"], row["code"], row["attempts"]) for row in rows)


def test_rows_of_a_run_end_in_one_file(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path)
    quarantine.add([Failure("a", FailureCode.DECODE, "x", "s")])
    quarantine.add([Failure("b", FailureCode.TIMEOUT, "y", "s"), Failure("c", FailureCode.NO_FACE, "z", "s")])
    assert len(list(tmp_path.glob("part-*"))) == 2
    quarantine.settle(frozenset())
    (path,) = tmp_path.glob("part-*")
    assert pq.read_schema(path).equals(QUARANTINE_SCHEMA)
    assert _rows(tmp_path) == [("a", "decode", 1), ("b", "timeout", 1), ("c", "no_face", 1)]


def test_only_what_may_pass_is_tried_again(tmp_path: Path) -> None:
    codes = [FailureCode.DECODE, FailureCode.UNAVAILABLE, FailureCode.TIMEOUT, FailureCode.RATE_LIMITED]
    Quarantine(tmp_path).add([Failure(str(code), code, "", "s") for code in codes])
    assert Quarantine(tmp_path).final() == {"decode", "unavailable"}


def test_a_retry_counts_and_supersedes_and_a_kill_before_the_end_loses_nothing(tmp_path: Path) -> None:
    Quarantine(tmp_path).add(
        [Failure("a", FailureCode.TIMEOUT, "", "s"), Failure("b", FailureCode.DECODE, "", "s")]
    )
    killed = Quarantine(tmp_path)
    killed.add([Failure("a", FailureCode.DECODE, "", "s")])  # never settles
    again = Quarantine(tmp_path)
    assert again.final() == {"a", "b"}
    assert {row["id"]: row["attempts"] for row in again.rows(frozenset())} == {"a": 2, "b": 1}
    again.settle(frozenset())
    assert _rows(tmp_path) == [("a", "decode", 2), ("b", "decode", 1)]


def test_what_was_made_after_all_leaves(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path)
    quarantine.add([Failure("a", FailureCode.TIMEOUT, "", "s")])
    quarantine.settle({"a"})
    assert list(tmp_path.glob("part-*")) == []
    quarantine.settle({"a"})


def test_a_settled_folder_is_left_alone(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path)
    quarantine.add([Failure("a", FailureCode.DECODE, "", "s")])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    Quarantine(tmp_path).settle(frozenset())
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_the_line_of_counts_has_reasons_only_where_there_are_any() -> None:
    assert (
        counts_line({"in": 96, "ok": 96, "quarantined": 0, "pending": 0}, {})
        == "96 clips: 96 ok, 0 quarantined, 0 pending"
    )
    assert (
        counts_line({"in": 96, "ok": 90, "quarantined": 6, "pending": 0}, {"decode": 2, "no_face": 4})
        == "96 clips: 90 ok, 6 quarantined (4 no_face, 2 decode), 0 pending"
    )
    assert counts_line({"in": 4, "ok": 3, "quarantined": 1}, {"decode": 1}) == (
        "4 clips: 3 ok, 1 quarantined (1 decode)"
    )
