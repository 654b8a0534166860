"""Inputs that did not become clips: one row for each, with its reason and the number of attempts.

Rows are appended in files of their own, each whole; ``settle`` puts them into one file. A row that a later
run makes good, or tries again, is superseded and goes when that run settles, never before: a run that is
killed loses no reason.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence, Set
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from safa.data.schema import QUARANTINE_SCHEMA
from safa.errors import TRANSIENT, Failure
from safa.files import atomic_file

log = logging.getLogger(__name__)

SHOWN = 20  # refusals that are logged one by one in a run; the rest is counted


class Quarantine:
    """The folder ``quarantine`` of a run folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        rows = [row for path in self._files() for row in pq.read_table(path).to_pylist()]
        rows.sort(key=lambda row: row["attempts"])
        self._rows: dict[str, dict[str, Any]] = {row["id"]: row for row in rows}  # the last attempt stands
        self._shown = 0
        self.fresh: set[str] = set()  # refused by this run

    def final(self) -> frozenset[str]:
        """Ids that another run need not try: all but those whose error may pass."""
        return frozenset(name for name, row in self._rows.items() if row["code"] not in TRANSIENT)

    def rows(self, done: Set[str]) -> list[dict[str, Any]]:
        """What is refused and not ``done``."""
        return [row for name, row in self._rows.items() if name not in done]

    def add(self, failures: Iterable[Failure]) -> None:
        """Keep these failures."""
        rows = [quarantine_row(failure, self._attempts(failure.name) + 1) for failure in failures]
        if not rows:
            return
        self._log(rows)
        self._rows |= {str(row["id"]): row for row in rows}
        self.fresh |= {str(row["id"]) for row in rows}
        self._write(rows)

    def _attempts(self, name: str) -> int:
        return int(self._rows[name]["attempts"]) if name in self._rows else 0

    def settle(self, done: Set[str]) -> None:
        """One file, one row for each input that is refused and not ``done``."""
        old = self._files()
        self._rows = {row["id"]: row for row in self.rows(done)}
        if len(old) > 1 or sum(pq.read_metadata(path).num_rows for path in old) != len(self._rows):
            if self._rows:
                self._write(list(self._rows.values()))
            for path in old:
                path.unlink()

    def _log(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows[: max(0, SHOWN - self._shown)]:
            log.warning("%s: %s refused (%s): %s", row["stage"], row["id"], row["code"], row["detail"])
        self._shown += len(rows)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("part-*.parquet"))

    def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        path = self._folder / f"part-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.parquet"
        write_quarantine(path, rows)


def quarantine_row(failure: Failure, attempts: int = 1) -> dict[str, Any]:
    """A failure as a row of ``QUARANTINE_SCHEMA``, dated now."""
    row = {"id": failure.name, "stage": failure.stage, "code": str(failure.code), "detail": failure.detail}
    return {**row, "attempts": attempts, "time": datetime.now(UTC)}


def write_quarantine(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A file of such rows, atomically."""
    with atomic_file(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=QUARANTINE_SCHEMA), temporary)
