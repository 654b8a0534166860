"""``metrics.jsonl``: one JSON object per line, training losses and validation scores in the order of steps.

A training row has ``kind: train`` with ``step``, ``epoch``, ``lr_factor``, rates and ``losses`` (weighted,
means since the row before). A validation row has ``kind: validate`` with ``step`` and ``scores``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE_NAME = "metrics.jsonl"


def read_records(path: Path) -> list[dict[str, Any]]:
    """All complete rows; a last line that a crash cut off is left out. No file: no rows."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def append_record(path: Path, row: Mapping[str, Any]) -> None:
    """Add one row."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def drop_records_after(path: Path, step: int) -> None:
    """Forget rows of steps that a resumed run will take again."""
    rows = [row for row in read_records(path) if row["step"] <= step]
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    temporary.replace(path)
