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

from safa.data.schema import QUARANTINE_SCHEMA, TRANSIENT, Code

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
        """Ids that another run need not try: all but those whose fault may pass."""
        return frozenset(name for name, row in self._rows.items() if row["code"] not in TRANSIENT)

    def rows(self, done: Set[str]) -> list[dict[str, Any]]:
        """What is refused and not ``done``."""
        return [row for name, row in self._rows.items() if name not in done]

    def add(self, stage: str, refusals: Iterable[tuple[str, Code | str, str]]) -> None:
        """Keep refusals: id, code, explanation."""
        now = datetime.now(UTC)
        rows = [
            {
                "id": name,
                "stage": stage,
                "code": str(code),
                "detail": detail,
                "attempts": self._rows[name]["attempts"] + 1 if name in self._rows else 1,
                "time": now,
            }
            for name, code, detail in refusals
        ]
        if not rows:
            return
        self._log(stage, rows)
        self._rows |= {str(row["id"]): row for row in rows}
        self.fresh |= {str(row["id"]) for row in rows}
        self._write(rows)

    def settle(self, done: Set[str]) -> None:
        """One file, one row for each input that is refused and not ``done``."""
        old = self._files()
        self._rows = {row["id"]: row for row in self.rows(done)}
        if len(old) > 1 or sum(pq.read_metadata(path).num_rows for path in old) != len(self._rows):
            if self._rows:
                self._write(list(self._rows.values()))
            for path in old:
                path.unlink()

    def _log(self, stage: str, rows: Sequence[dict[str, Any]]) -> None:
        for row in rows[: max(0, SHOWN - self._shown)]:
            log.warning("%s: %s refused (%s): %s", stage, row["id"], row["code"], row["detail"])
        self._shown += len(rows)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("part-*.parquet"))

    def _write(self, rows: Sequence[dict[str, Any]]) -> None:
        path = self._folder / f"part-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.parquet"
        part = path.with_name(f".{path.name}.part")
        pq.write_table(pa.Table.from_pylist(list(rows), schema=QUARANTINE_SCHEMA), part)
        part.replace(path)
