"""The quarantine: one row for each input that did not become output, with its reason and number of attempts.

New rows go to files of their own, each written atomically; ``settle`` merges all rows into one file. The row
of an input that a later run processes, or tries again, is deleted when that run settles and not before: a
run that is killed loses no reason.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from safa.data.schema import QUARANTINE_SCHEMA
from safa.errors import TRANSIENT, Failure
from safa.files import Location, atomic_file, delete, entries, exists, is_uri, join, local_file

log = logging.getLogger(__name__)

SHOWN = 20  # failures that are logged one by one in a run; the rest is only counted


class Quarantine:
    """The rows in the folder ``quarantine`` of a run folder."""

    def __init__(self, folder: Location) -> None:
        self._folder = folder
        if not is_uri(folder):
            Path(folder).mkdir(parents=True, exist_ok=True)
        rows = [row for path in self._files() for row in _read(path)]
        rows.sort(key=lambda row: row["attempts"])
        self._rows: dict[str, dict[str, Any]] = {row["id"]: row for row in rows}  # the last attempt counts
        self._shown = 0
        self.fresh: set[str] = set()  # ids that failed in this run

    def final(self) -> frozenset[str]:
        """Ids that another run need not try: all but those whose error may be transient."""
        return frozenset(name for name, row in self._rows.items() if row["code"] not in TRANSIENT)

    def rows(self, done: Set[str]) -> list[dict[str, Any]]:
        """The rows of all inputs that are not ``done``."""
        return [row for name, row in self._rows.items() if name not in done]

    def add(self, failures: Iterable[Failure]) -> None:
        """Write a row for each of these failures."""
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
        """Merge the rows into one file, with one row for each input that is not ``done``."""
        old = self._files()
        self._rows = {row["id"]: row for row in self.rows(done)}
        if len(old) > 1 or sum(len(_read(path)) for path in old) != len(self._rows):
            if self._rows:
                self._write(list(self._rows.values()))
            for path in old:
                delete(path)

    def _log(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows[: max(0, SHOWN - self._shown)]:
            log.warning("%s: %s quarantined (%s): %s", row["stage"], row["id"], row["code"], row["detail"])
        self._shown += len(rows)

    def _files(self) -> list[str]:
        found = entries(self._folder) if exists(self._folder) else ()
        return sorted(entry.location for entry in found if entry.name.startswith("part-"))

    def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        path = join(self._folder, f"part-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.parquet")
        write_quarantine(path, rows)


def quarantine_row(failure: Failure, attempts: int = 1) -> dict[str, Any]:
    """A failure as a row of ``QUARANTINE_SCHEMA``, dated now."""
    row = {"id": failure.name, "stage": failure.stage, "code": str(failure.code), "detail": failure.detail}
    return {**row, "attempts": attempts, "time": datetime.now(UTC)}


def _read(location: str) -> list[dict[str, Any]]:
    with local_file(location) as path:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows


def write_quarantine(path: Location, rows: Sequence[dict[str, Any]]) -> None:
    """Write a file of such rows, atomically."""
    with atomic_file(path) as temporary:
        pq.write_table(pa.Table.from_pylist(list(rows), schema=QUARANTINE_SCHEMA), temporary)


def counts_line(counts: Mapping[str, int], reasons: Mapping[str, int]) -> str:
    """The outcome of a run, e.g. ``96 clips: 90 ok, 6 quarantined (4 no_face, 2 decode), 0 pending``.

    Args:
        counts: ``in``, then the number of clips in each state, which add up to it.
        reasons: failure code to number of clips; may be empty.
    """
    parts = {name: f"{count} {name}" for name, count in counts.items() if name != "in"}
    if reasons:
        most_first = sorted(reasons.items(), key=lambda item: -item[1])
        parts["quarantined"] += f" ({', '.join(f'{count} {code}' for code, count in most_first)})"
    return f"{counts['in']} clips: {', '.join(parts.values())}"
