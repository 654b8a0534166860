"""Parquet files from anyone, read in batches that are counted: a footer claims what it likes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from safa.files import check_regular
from safa.limits import check_limit
from safa.reading import boundary

_BATCH = 4096  # rows


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a whole local Parquet file of small rows.

    Args:
        columns: those that are needed; None = all.

    Raises:
        UserError: no such file, damaged, a column is missing, or over the limit ``table_rows`` or
            ``table_bytes``.
    """
    with boundary(str(path), "not a readable Parquet file"), open_parquet(path) as file:
        missing = [name for name in columns or () if name not in file.schema_arrow.names]
        if missing:
            raise KeyError(f"no column {', '.join(missing)}")
        schema = (
            file.schema_arrow if columns is None else pa.schema([file.schema_arrow.field(c) for c in columns])
        )
        return pa.Table.from_batches(list(_batches(file, columns, str(path))), schema)


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


def _batches(file: pq.ParquetFile, columns: Sequence[str] | None, where: str) -> Iterator[pa.RecordBatch]:
    size = 0
    for batch in file.iter_batches(_BATCH, columns=None if columns is None else list(columns)):
        size += batch.nbytes
        check_limit("table_bytes", size, where)
        yield batch
