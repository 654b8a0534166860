"""Columns that are added to a data set later, frame by frame, without touching its shards.

A column is a folder ``columns/NAME/`` of the data set:

- ``parts/<random>.parquet``: one row a frame, ``clip_id``, ``frame`` and the column's values, for any program
  that reads Parquet;
- ``index/<random>.arrow``: one row a clip of a part, ``PART_SCHEMA``;
- ``column.json``: the parts that count, and how many clips and frames they have; it is written last.

Row groups are the pieces of the data set. The landmarks of a column are stored as those of a shard are: plain
and uncompressed, so that those of a frame are one range of bytes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from safa.data.schema import NUM_LANDMARKS, is_safe_name
from safa.data.shards import LANDMARK_BYTES, ONE_PAGE, is_name
from safa.errors import UserError
from safa.files import (
    Location,
    atomic_file,
    check_regular,
    entries,
    exists,
    join,
    local_file,
    shown,
    write_json,
)
from safa.limits import check_limit
from safa.reading import boundary, read_json
from safa.tables import open_parquet, read_group

COLUMNS, PARTS, INDEX, MANIFEST = "columns", "parts", "index", "column.json"
FORMAT = 1
DELETE = "Delete the column."
VALUES = 2 * NUM_LANDMARKS
_KEY = (
    pa.field("clip_id", pa.string(), nullable=False),
    pa.field("frame", pa.int32(), nullable=False),  # number in the clip, from 0
)
PART_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("n_frames", pa.int32()),
        ("values_start", pa.large_list(pa.int64())),  # for each piece: byte of its first landmarks; or empty
        ("has_face", pa.large_list(pa.uint8())),  # for each frame, if the column is of landmarks; or empty
    ]
)
Values = Mapping[str, NDArray[np.float32]]  # name -> (T,) or (T, D) of the frames of a piece


def column_folder(clips: Location, name: str) -> Location:
    """The folder of a column of a data set."""
    return join(clips, COLUMNS, name)


def write_part(folder: Location, part: str, clips: Iterable[tuple[str, Sequence[Values]]]) -> None:
    """Write the values of some clips; they are there when this returns.

    Args:
        folder: of the column.
        part: name of the part, the same in every attempt at these clips.
        clips: of each its id, and the values of each of its pieces, in order.
    """
    with tempfile.TemporaryDirectory(prefix="safa-") as scratch:
        path = Path(scratch) / "part.parquet"
        rows: list[dict[str, Any]] = []
        writer: pq.ParquetWriter | None = None
        groups = 0
        try:
            for clip_id, pieces in clips:
                first, faces = 0, list[int]()
                for values in pieces:
                    table = _table(clip_id, first, values)
                    writer = writer or _writer(path, table.schema)
                    writer.write_table(table, row_group_size=len(table))
                    first += len(table)
                    if "landmarks" in values:
                        faces += np.isfinite(values["landmarks"]).all(axis=1).astype(int).tolist()
                row = {"clip_id": clip_id, "n_frames": first, "has_face": faces}
                rows.append(row | {"values_start": [groups, groups + len(pieces)]})
                groups += len(pieces)
        finally:
            if writer is not None:
                writer.close()
        if not rows:
            return
        _find_values(path, rows)
        with atomic_file(join(folder, PARTS, f"{part}.parquet")) as target:
            shutil.copyfile(path, target)
        with (
            atomic_file(join(folder, INDEX, f"{part}.arrow")) as target,
            pa.OSFile(str(target), "wb") as file,
            pa.ipc.new_file(file, PART_SCHEMA) as index,
        ):
            index.write_table(pa.Table.from_pylist(rows, schema=PART_SCHEMA))


def _table(clip_id: str, first: int, values: Values) -> pa.Table:
    count = len(next(iter(values.values())))
    columns: dict[str, pa.Array] = {
        "clip_id": pa.array([clip_id] * count, pa.string()),
        "frame": pa.array(range(first, first + count), pa.int32()),
    }
    fields = [*_KEY]
    for name, array in values.items():
        flat = pa.array(np.ascontiguousarray(array, np.float32).ravel())  # (T,) or (T, D) -> (T * D,)
        element = pa.field("element", pa.float32(), nullable=False)
        kind = pa.float32() if array.ndim == 1 else pa.list_(element, array.shape[1])
        columns[name] = flat if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, type=kind)
        fields.append(pa.field(name, kind, nullable=False))
    return pa.table(columns, schema=pa.schema(fields))


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(
        path,
        schema,
        compression="none",
        use_dictionary=["clip_id"],
        write_statistics=["clip_id", "frame"],
        data_page_size=ONE_PAGE,
    )


def _find_values(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replace the row groups of each clip by the bytes where their landmarks begin."""
    metadata = pq.read_metadata(path)
    leaves = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    leaf = leaves.index("landmarks.list.element") if "landmarks.list.element" in leaves else None
    for row in rows:
        starts = []
        for number in range(*row["values_start"]) if leaf is not None else ():
            group = metadata.row_group(number)
            column = group.column(leaf)
            end = column.data_page_offset + column.total_compressed_size
            starts.append(end - LANDMARK_BYTES * group.num_rows)  # the values are the chunk's last bytes
        row["values_start"] = starts


# ---- reading -----------------------------------------------------------------------------------------------


def _index_files(folder: Location) -> list[str]:
    if not exists(join(folder, INDEX)):
        return []
    return sorted(entry.stem for entry in entries(join(folder, INDEX)) if is_name(entry.name))


def _read_index(folder: Location, part: str) -> pa.Table:
    where = join(folder, INDEX, f"{part}.arrow")
    with local_file(where) as path, boundary(shown(where), "not an index of a column", DELETE):
        check_regular(path)
        check_limit("table_bytes", path.stat().st_size, shown(where))
        with pa.OSFile(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        if table.get_total_buffer_size() > path.stat().st_size:  # compressed, which ours never is
            raise ValueError("it unfolds to more than its size")
        table.validate(full=True)  # or a wrong offset would read beside the file
        if not table.schema.equals(PART_SCHEMA):
            raise ValueError("other columns")
        if any(column.null_count for column in table.columns):
            raise ValueError("a value is missing")
        if (np.asarray(table["n_frames"]) < 0).any():
            raise ValueError("a clip has less than no frame")
    return table


def annotated_clips(folder: Location) -> set[str]:
    """Ids of the clips that a column has, those of a run that is not finished too."""
    return {
        name for part in _index_files(folder) for name in _read_index(folder, part)["clip_id"].to_pylist()
    }


def commit_column(folder: Location, kind: str) -> int:
    """Name all parts that are there in ``column.json``. Returns the number of clips."""
    parts = _index_files(folder)
    tables = [_read_index(folder, part) for part in parts]
    clips = {name for table in tables for name in table["clip_id"].to_pylist()}
    frames = sum(sum(table["n_frames"].to_pylist()) for table in tables)
    record = {"format": FORMAT, "kind": kind, "clips": len(clips), "frames": frames, "parts": parts}
    write_json(join(folder, MANIFEST), record)
    return len(clips)


@dataclass(frozen=True)
class ColumnClips:
    """A column's index, clips sorted by id, each once; parts are numbered as in ``parts``."""

    parts: tuple[str, ...]
    table: pa.Table  # PART_SCHEMA
    part: NDArray[np.int32]  # (clips,)


def read_column(clips: Location, name: str, kind: str = "") -> ColumnClips:
    """The index of a column that was committed.

    Args:
        kind: what it must be, e.g. ``landmarks``; empty: anything.

    Raises:
        UserError: there is none of this name or kind, or it is damaged.
    """
    folder = column_folder(clips, name)
    where = shown(join(folder, MANIFEST))
    if not exists(join(folder, MANIFEST)):
        raise UserError(f"no column '{name}' here", where, "Run `python -m pipelines.annotate`.")
    record = _read_manifest(folder)
    parts = tuple(record["parts"])
    if kind and record["kind"] != kind:
        raise UserError(f"is a column of {record['kind']}, not of {kind}", where)
    tables = [_read_index(folder, part) for part in parts]
    table = pa.concat_tables(tables) if tables else PART_SCHEMA.empty_table()
    number = np.repeat(np.arange(len(parts)), [len(each) for each in tables]).astype(np.int32)
    ids = np.array(table["clip_id"].to_pylist(), object)
    _, first = np.unique(ids, return_index=True) if len(ids) else (ids, np.empty(0, np.int64))
    return ColumnClips(parts, table.take(pa.array(first)), number[first])


def _read_manifest(folder: Location) -> dict[str, Any]:
    where = join(folder, MANIFEST)
    record = read_json(where)
    with boundary(shown(where), "cannot be read", DELETE):
        if record["format"] != FORMAT or not all(is_name(f"{part}.arrow") for part in record["parts"]):
            raise ValueError("another format")
        if not is_safe_name(record["kind"]):
            raise ValueError("a kind that is none")
    return record


def column_names(clips: Location) -> list[str]:
    """Names of the columns of a data set that were committed, sorted."""
    folder = join(clips, COLUMNS)
    found = [entry for entry in entries(folder) if is_safe_name(entry.name)] if exists(folder) else []
    return sorted(entry.name for entry in found if exists(join(entry.location, MANIFEST)))


def column_kind(clips: Location, name: str) -> str:
    """What a column holds, e.g. ``landmarks``."""
    return str(_read_manifest(column_folder(clips, name))["kind"])


def verify_column(clips: Location, name: str) -> list[str]:
    """Compare the index of a column with its rows, and byte ranges with the values there. Gives errors."""
    column, errors = read_column(clips, name), list[str]()
    for number, part in enumerate(column.parts):
        where = join(column_folder(clips, name), PARTS, f"{part}.parquet")
        index = column.table.filter(pa.array(column.part == number)).to_pylist()
        try:
            with local_file(where) as path, boundary(shown(where), "cannot be read"):
                errors += [f"columns/{name}, {text}" for text in _differences(path, index)]
        except UserError as error:
            errors.append(f"columns/{name}, part {part}: {error}")
    return errors


def _differences(path: Path, index: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a part and its index say differently of each clip."""
    found: dict[str, list[tuple[int, bytes]]] = {}  # of each clip's pieces: frames, and their landmarks
    file = open_parquet(path)
    for group in range(file.num_row_groups):
        table = read_group(file, group, path)
        values = b""
        if "landmarks" in table.column_names:
            values = table["landmarks"].combine_chunks().flatten().to_numpy().astype("<f4").tobytes()
        found.setdefault(str(table["clip_id"][0]), []).append((len(table), values))
    errors = []
    with path.open("rb") as data:
        for row in index:
            pieces = found.get(row["clip_id"], [])
            total = sum(count for count, _ in pieces)
            if total != row["n_frames"]:
                errors.append(f"{row['clip_id']}: {total} of {row['n_frames']} frames")
            for start, (count, values) in zip(row["values_start"], pieces, strict=False):
                data.seek(start)
                if data.read(count * LANDMARK_BYTES) != values:
                    errors.append(f"{row['clip_id']}: byte {start} does not begin its landmarks")
    return errors
