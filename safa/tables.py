"""Parquet files from anyone, read in batches that are counted: a footer claims what it likes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from safa.files import check_regular
from safa.limits import check_limit
from safa.reading import boundary

FREE_BYTES = 2**26  # after decompression: from there on they are compared with the size of the file
_BATCH = 4096  # rows
_FEW = 64  # rows that hold pictures


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a whole local Parquet file of small rows.

    Args:
        columns: those that are needed; None = all.

    Raises:
        UserError: no such file, damaged, a column is missing, or over the limit ``table_rows``,
            ``table_bytes`` or ``table_ratio``.
    """
    with boundary(str(path), "not a readable Parquet file"), open_parquet(path) as file:
        missing = [name for name in columns or () if name not in file.schema_arrow.names]
        if missing:
            raise KeyError(f"no column {', '.join(missing)}")
        schema = (
            file.schema_arrow if columns is None else pa.schema([file.schema_arrow.field(c) for c in columns])
        )
        return pa.Table.from_batches(list(_batches(file, columns, path)), schema)


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a local Parquet file; its footer is checked before anything is read.

    Raises:
        UserError: no such file, no Parquet file, or its footer announces more than the limits allow.
    """
    check_regular(path)
    with boundary(str(path), "not a readable Parquet file"):
        file = pq.ParquetFile(path)
        check_limit("table_rows", file.metadata.num_rows, str(path))
        for group in range(file.metadata.num_row_groups):
            check_limit("table_bytes", file.metadata.row_group(group).total_byte_size, str(path))
        return file


def read_group(file: pq.ParquetFile, group: int, path: Path) -> pa.Table:
    """Read a group of rows of a file that ``open_parquet`` opened.

    Raises:
        UserError: damaged, or over the limit ``table_bytes`` or ``table_ratio``.
    """
    with boundary(str(path), "not a readable Parquet file"):
        batches = list(_batches(file, None, path, [group], _FEW))
        return pa.Table.from_batches(batches, file.schema_arrow)


def _batches(
    file: pq.ParquetFile,
    columns: Sequence[str] | None,
    path: Path,
    groups: Sequence[int] | None = None,
    rows: int = _BATCH,
) -> Iterator[pa.RecordBatch]:
    """Rows as they come. A dictionary of one value stands for any number of them, so they are counted."""
    size, stored = 0, path.stat().st_size
    names = None if columns is None else list(columns)
    for batch in file.iter_batches(rows, row_groups=groups, columns=names):
        size += batch.nbytes
        check_limit("table_bytes", size, str(path))
        if size > FREE_BYTES:
            check_limit("table_ratio", size / stored, str(path))
        yield batch
