"""The data set on disk: shards of frames, and an index that says where each frame lies.

A data set is a folder, local or in an object store:

- ``shards/<random>.parquet``: one row a frame (``FRAME_SCHEMA``), for any program that reads Parquet;
- ``index/<random>.arrow``: one row a clip (``INDEX_SCHEMA``), an Arrow IPC file that is mapped, not read;
- ``index.json``: the one index file that counts, and the shards it points into; it is written last.

The image column is plain, uncompressed and without dictionary, and a row group is one piece of a clip whose
columns are one page each. So an image is one byte range of its shard, and so are the landmarks of a frame.
The index holds what a reader needs to find them: for each piece where its first image and its first
landmarks begin, for each frame how many bytes its image has and whether it shows a face. docs/data.md
describes the format for other programs.

A writer closes its shard and then adds an index file of its own, a part; ``commit_index`` joins these into
one, sorted by clip id, so that nothing that reads the data set depends on who wrote what. The pieces of a
clip may be written by many writers into many shards: a clip is there when all its pieces are, from the first
to the one that is marked as its last.
"""

from __future__ import annotations

import json
import re
import tempfile
import uuid
from collections.abc import Callable, Iterable, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from safa.data.schema import NUM_LANDMARKS
from safa.errors import ClipError, UserError
from safa.files import (
    Entry,
    Location,
    atomic_file,
    check_regular,
    delete,
    entries,
    exists,
    is_uri,
    join,
    local_file,
    missing,
    publish,
    shown,
    write_json,
)
from safa.reading import boundary, read_json

FORMAT = 3
READABLE = (2, FORMAT)  # in format 2 all pieces of a clip lie in one shard
SHARDS, INDEX, MANIFEST = "shards", "index", "index.json"
LENGTH_BYTES = 4  # before each image, its length, little endian
LANDMARK_BYTES = NUM_LANDMARKS * 2 * 4  # float32
SCRATCH = ".tmp-"
ONE_PAGE = 2**30  # bytes: larger than any piece, so that a column of a row group is one page

_POINTS = pa.list_(pa.field("element", pa.float32(), nullable=False), 2 * NUM_LANDMARKS)
FRAME_SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),  # person#video#start#end
        pa.field("frame", pa.int32(), nullable=False),  # number in the clip, from 0
        pa.field("image", pa.binary(), nullable=False),  # JPEG or PNG
        # px of the stored frame, x and y of 68 points; NaN: no face
        pa.field("landmarks", _POINTS, nullable=False),
        pa.field("face_score", pa.float32(), nullable=False),  # of the detector; NaN: none was run
    ]
)

INDEX_SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("person_id", pa.string()),
        ("video_id", pa.string()),
        ("split", pa.string()),  # train or test
        ("start", pa.int32()),  # frames in the source at its reference rate
        ("end", pa.int32()),
        ("fps", pa.float32()),  # of the stored frames
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("bbox", pa.list_(pa.int32(), 4)),  # left, top, right, bottom in the source frame
        ("source", pa.string()),  # name of the file that the clip came from
        ("n_frames", pa.int32()),
        ("piece_frames", pa.int32()),  # frames in each piece but the last
        ("piece_shard", pa.large_list(pa.int32())),  # for each piece: number of its shard in index.json
        ("image_start", pa.large_list(pa.int64())),  # for each piece: byte of its first image's length field
        ("landmarks_start", pa.large_list(pa.int64())),  # for each piece: byte of its first landmarks
        ("image_size", pa.large_list(pa.int32())),  # for each frame, in bytes
        ("has_face", pa.large_list(pa.uint8())),  # for each frame: 1 if all its landmarks are known
    ]
)
# A part has a row for each clip, or for each piece of one; its metadata names its shards (``SHARD_NAMES``).
PART_SCHEMA = INDEX_SCHEMA.append(pa.field("first_piece", pa.int32())).append(
    pa.field("has_last", pa.bool_())  # whether the last piece of the clip is among these
)
SHARD_NAMES = b"shards"
_SCHEMA_2 = pa.schema(
    [pa.field("shard", pa.string()) if field.name == "piece_shard" else field for field in INDEX_SCHEMA]
)
_RECORD = INDEX_SCHEMA.names[: INDEX_SCHEMA.get_field_index("n_frames")]
_OF_PIECES = ("piece_shard", "image_start", "landmarks_start")  # lists with an item for each piece
_OF_FRAMES = ("image_size", "has_face")
# Raises ``ClipError`` for a clip that is complete and yet not wanted: its frames, and how many show a face.
Check = Callable[[int, int], None]
MAY_BE_NULL = frozenset({"end"})  # in the index: a clip that runs to the end of its file


@dataclass(frozen=True)
class ClipRecord:
    """What the index says of a clip besides where its bytes lie; the fields are those of ``INDEX_SCHEMA``."""

    clip_id: str
    person_id: str
    video_id: str
    split: str
    start: int
    end: int | None  # None: to the end of the file
    fps: float
    height: int
    width: int
    bbox: tuple[int, int, int, int]
    source: str


@dataclass(frozen=True)
class _Piece:
    """A row group: image sizes in bytes, which frames show a face, and the bytes to check it by."""

    sizes: list[int]
    faces: list[int]
    first_image: bytes
    first_landmarks: bytes


@dataclass(frozen=True)
class _Kept:
    """Pieces ``first`` to ``end`` (exclusive) of a shard, which are pieces ``number`` and on of a clip."""

    record: ClipRecord
    first: int
    end: int
    number: int
    last: bool


class ShardWriter:
    """One shard that is being written. Use as a context; what it keeps exists once the context ends.

    Pieces are streamed to the file; then ``keep`` says that they are a clip, ``keep_piece`` that the one just
    written is a piece of a clip whose others may lie elsewhere, or ``drop`` that they are none: their rows
    stay in the shard, and the index leaves them out. If nothing is kept no file is left.

    Args:
        folder: of the data set.
        part: name of the index file to write, without suffix; a random one if empty.
    """

    def __init__(self, folder: Location, part: str = "") -> None:
        self._folder, self._part = folder, part or uuid.uuid4().hex
        self._name = f"{uuid.uuid4().hex}.parquet"
        self._stack = ExitStack()
        self._pieces: list[_Piece] = []
        self._kept: list[_Kept] = []
        self._first = 0  # piece of the clip at work
        self.n_bytes = 0  # of images, so far

    def __enter__(self) -> Self:
        self._scratch = Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(prefix=SCRATCH, dir=self._beside()))
        )
        self._path = self._scratch / self._name
        self._writer = pq.ParquetWriter(
            self._path,
            FRAME_SCHEMA,
            compression="none",  # images don't shrink again, and a range must hold the plain bytes
            use_dictionary=["clip_id"],
            write_statistics=["clip_id", "frame"],  # of the image column they would be two more images
            data_page_size=ONE_PAGE,
        )
        self._stack.callback(self._writer.close)
        return self

    def _beside(self) -> Path | None:
        """Where the shard grows: beside its place, so that it need not be copied, or in local scratch."""
        if is_uri(self._folder):
            return None
        Path(self._folder).mkdir(parents=True, exist_ok=True)
        return Path(self._folder)

    def add_piece(
        self,
        clip_id: str,
        first: int,
        images: Sequence[bytes],
        landmarks: NDArray[np.float32],
        scores: NDArray[np.float32],
    ) -> None:
        """Write the next frames of a clip.

        Args:
            first: number of the first of them in the clip.
            images: encoded, one a frame.
            landmarks: (T, 68, 2) px, NaN where there is no face.
            scores: (T,).
        """
        count = len(images)
        points = np.ascontiguousarray(landmarks, np.float32).reshape(count, -1)  # (T, 68, 2) -> (T, 136)
        columns = [
            pa.array([clip_id] * count, pa.string()),
            pa.array(range(first, first + count), pa.int32()),
            pa.array(images, pa.binary()),
            pa.FixedSizeListArray.from_arrays(
                pa.array(points.ravel()),  # (T, 136) -> (T * 136,)
                type=FRAME_SCHEMA.field("landmarks").type,
            ),
            pa.array(np.asarray(scores, np.float32)),
        ]
        self._writer.write_table(pa.table(columns, schema=FRAME_SCHEMA), row_group_size=count)
        faces: list[int] = np.isfinite(points).all(axis=1).astype(int).tolist()  # (T, 136) -> (T,)
        piece = _Piece([len(image) for image in images], faces, images[0], points[0].tobytes())
        self._pieces.append(piece)
        self.n_bytes += sum(piece.sizes)

    def keep(self, record: ClipRecord) -> None:
        """The pieces since the last ``keep``, ``keep_piece`` or ``drop`` are this clip."""
        self._keep(record, 0, last=True)

    def keep_piece(self, record: ClipRecord, number: int, *, last: bool) -> None:
        """The piece just written is piece ``number`` of this clip, from 0; ``last``: none follows it."""
        self._keep(record, number, last=last)

    def _keep(self, record: ClipRecord, number: int, *, last: bool) -> None:
        self._kept.append(_Kept(record, self._first, len(self._pieces), number, last))
        self._first = len(self._pieces)

    def drop(self) -> None:
        """The pieces since the last ``keep``, ``keep_piece`` or ``drop`` are no clip."""
        self._first = len(self._pieces)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is None and self._kept:
                self._writer.close()
                rows = _named(pa.Table.from_pylist(self._index_rows(), schema=PART_SCHEMA), [self._name])
                # The shard first: an index file never names one that is not there.
                publish(self._path, join(self._folder, SHARDS, self._name))
                with atomic_file(join(self._folder, INDEX, f"{self._part}.arrow")) as path:
                    _write_index(path, rows)

    def _index_rows(self) -> list[dict[str, Any]]:
        """The clips with where their bytes lie, read back from the file and compared."""
        metadata = pq.read_metadata(self._path)
        leaves = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
        image, landmarks = leaves.index("image"), leaves.index("landmarks.list.element")
        starts = []
        with self._path.open("rb") as file:
            for number, piece in enumerate(self._pieces):
                group = metadata.row_group(number)
                at = _values_start(group.column(image), sum(LENGTH_BYTES + size for size in piece.sizes))
                points = _values_start(group.column(landmarks), LANDMARK_BYTES * len(piece.sizes))
                _check_bytes(file, at, len(piece.first_image).to_bytes(LENGTH_BYTES, "little"))
                _check_bytes(file, at + LENGTH_BYTES, piece.first_image)
                _check_bytes(file, points, piece.first_landmarks)
                starts.append((at, points))
        return [
            {
                **vars(kept.record),
                "n_frames": sum(len(piece.sizes) for piece in self._pieces[kept.first : kept.end]),
                "piece_frames": len(self._pieces[kept.first].sizes),
                "piece_shard": [0] * (kept.end - kept.first),
                "image_start": [at for at, _ in starts[kept.first : kept.end]],
                "landmarks_start": [points for _, points in starts[kept.first : kept.end]],
                "image_size": [size for piece in self._pieces[kept.first : kept.end] for size in piece.sizes],
                "has_face": [face for piece in self._pieces[kept.first : kept.end] for face in piece.faces],
                "first_piece": kept.number,
                "has_last": kept.last,
            }
            for kept in self._kept
        ]


def _values_start(column: pq.ColumnChunkMetaData, n_bytes: int) -> int:
    """Where the values of a column chunk of one plain page begin: they are its last ``n_bytes`` bytes."""
    return int(column.data_page_offset + column.total_compressed_size - n_bytes)


def _check_bytes(file: BinaryIO, at: int, expected: bytes) -> None:
    file.seek(at)
    if file.read(len(expected)) != expected:
        raise RuntimeError(
            f"byte {at} of a shard is not what was written there: Parquet's layout has changed"
        )


# ---- the index ---------------------------------------------------------------------------------------------


def _write_index(path: Path, rows: pa.Table) -> None:
    """One record batch, uncompressed, so that it can be mapped."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows.combine_chunks())


def _named(rows: pa.Table, shards: Sequence[str]) -> pa.Table:
    """The rows with the names that ``piece_shard`` numbers."""
    return rows.replace_schema_metadata({SHARD_NAMES: json.dumps(list(shards))})


def shard_names(index: pa.Table) -> list[str]:
    """Names of the shards that ``piece_shard`` of an index file numbers."""
    names: list[str] = json.loads(index.schema.metadata[SHARD_NAMES])
    return names


def read_index_file(path: Path) -> pa.Table:
    """An index file, mapped into memory: only what is looked at is read.

    Returns:
        A table of ``INDEX_SCHEMA`` or ``PART_SCHEMA``, with ``shard_names``.

    Raises:
        UserError: damaged, or no index.
    """
    check_regular(path)
    with boundary(str(path), "not an index of clips", "Run `safa dataset verify`."):
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        if table.get_total_buffer_size() > path.stat().st_size:  # compressed; ours never is, so that it maps
            raise ValueError("it unfolds to more than its size")
        table.validate(full=True)  # or a wrong offset would read beside the file
        if table.schema.equals(_SCHEMA_2):
            table = _from_format_2(table)
        if not (table.schema.equals(INDEX_SCHEMA) or table.schema.equals(PART_SCHEMA)):
            raise UserError("is not the index of a data set of this version", str(path))
        if any(table[name].null_count for name in set(table.column_names) - MAY_BE_NULL):
            raise ValueError("a value is missing")
        if not all(map(is_name, shard_names(table))):
            raise ValueError("a name of a shard is none")
    return table


def _from_format_2(table: pa.Table) -> pa.Table:
    """One shard a clip, as one shard a piece."""
    shard = table["shard"].combine_chunks().dictionary_encode()
    starts = table["image_start"].combine_chunks()
    numbers = np.repeat(shard.indices.to_numpy(zero_copy_only=False), _lengths(starts))
    lists = pa.LargeListArray.from_arrays(_offsets(_lengths(starts)), pa.array(numbers, pa.int32()))
    columns = {name: table[name] for name in table.column_names} | {"piece_shard": lists}
    rows = pa.table([columns[name] for name in INDEX_SCHEMA.names], schema=INDEX_SCHEMA)
    return _named(rows, shard.dictionary.to_pylist())


def index_parts(folder: Location) -> list[Entry]:
    """All index files of a data set: those of single shards, and the joined one."""
    if not exists(join(folder, INDEX)):
        return []
    files = entries(join(folder, INDEX))
    return sorted(file for file in files if file.suffix == ".arrow" and not file.name.startswith("."))


def stored_clips(folder: Location) -> set[str]:
    """Ids of all clips that are there with all their pieces, those of a run that is not finished too."""
    ids: set[str] = set()
    pieces: list[pa.Table] = []
    for part in index_parts(folder):
        with local_file(part.location) as path:
            table = read_index_file(path)
            whole, single = _apart(table.select(_KEYS) if "has_last" in table.column_names else table)
            ids.update(whole["clip_id"].to_pylist())
            pieces.append(single.combine_chunks())  # a copy: nothing stays mapped
    single = pa.concat_tables(pieces) if pieces else None
    if single is not None and len(single):
        single = single.sort_by([("clip_id", "ascending"), ("first_piece", "ascending")])
        single = single.filter(pa.array(_first_of_each(single, "clip_id", "first_piece")))
        starts, complete = _complete(single)
        ids.update(single["clip_id"].take(starts[complete]).to_pylist())
    return ids


_KEYS = ["clip_id", "first_piece", "has_last"]


def _apart(table: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The rows of an index file that are whole clips, and those that are single pieces."""
    if "has_last" not in table.column_names:
        return table, table.slice(0, 0).append_column("first_piece", pa.array([], pa.int32())).append_column(
            "has_last", pa.array([], pa.bool_())
        ).select(_KEYS)
    whole = pc.and_(table["has_last"], pc.equal(table["first_piece"], 0))
    return table.filter(whole), table.filter(pc.invert(whole))


def _first_of_each(table: pa.Table, *keys: str) -> NDArray[np.bool_]:
    """Which rows of a sorted table are the first with their keys."""
    first = np.zeros(len(table), bool)
    first[:1] = True
    for key in keys:
        column = table[key].combine_chunks()
        if len(column) > 1:
            differs = pc.not_equal(column.slice(1), column.slice(0, len(column) - 1))
            first[1:] |= differs.to_numpy(zero_copy_only=False)
    return first


def _complete(pieces: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The first row of each clip in a table of pieces, sorted, each once; and which clips are all there."""
    starts = np.flatnonzero(_first_of_each(pieces, "clip_id"))
    ends = np.append(starts[1:], len(pieces))
    number = pieces["first_piece"].to_numpy()
    last = pieces["has_last"].to_numpy()
    # Numbers rise, so that they are 0, 1, ... if the last one is their count less one.
    return starts, last[ends - 1] & (number[ends - 1] == ends - starts - 1)


def _lengths(lists: pa.LargeListArray) -> NDArray[np.int64]:
    lengths: NDArray[np.int64] = np.diff(lists.offsets.to_numpy())
    return lengths


def _offsets(lengths: NDArray[np.int64]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())


def _joined(folder: Location, parts: Sequence[Entry], superseded: Set[str]) -> pa.Table:
    """All complete clips of these index files, sorted by id, each once; ``shard_names`` are sorted, too."""
    with ExitStack() as stack:
        paths = [stack.enter_context(local_file(part.location)) for part in parts]
        tables = [read_index_file(path) for path in paths]
        names = sorted({name for table in tables for name in shard_names(table)})
        numbered = [_renumbered(table, names) for table in tables]
        wholes, singles = zip(*map(_apart, numbered), strict=True)
        whole = pa.concat_tables([table.select(INDEX_SCHEMA.names) for table in wholes])
        pieces = [table for table in singles if len(table)]
        old = np.isin(np.arange(len(names)), [n for n, name in enumerate(names) if name in superseded])
        whole = _once(whole, old, ["clip_id"])
        if pieces:
            rest = pa.concat_tables(pieces)
            rest = rest.filter(pc.invert(pc.is_in(rest["clip_id"], whole["clip_id"].combine_chunks())))
            rest = _once(rest, old, ["clip_id", "first_piece"])
            whole = pa.concat_tables([whole, _gathered(rest)]).sort_by("clip_id")
        return _named(whole.combine_chunks(), names)


def _renumbered(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """An index file with ``piece_shard`` numbers of ``names``."""
    place = {name: number for number, name in enumerate(names)}
    number = np.array([place[name] for name in shard_names(table)], np.int32)
    lists = table["piece_shard"].combine_chunks()
    # Values of the lists themselves, should the array be a slice of a longer one.
    shards = number[lists.flatten().to_numpy()] if len(number) else np.empty(0, np.int32)
    column = pa.LargeListArray.from_arrays(_offsets(_lengths(lists)), pa.array(shards, pa.int32()))
    at = table.schema.get_field_index("piece_shard")
    return table.set_column(at, table.schema.field(at), column).replace_schema_metadata(None)


def _once(table: pa.Table, old: NDArray[np.bool_], keys: Sequence[str]) -> pa.Table:
    """Sorted rows, each key once: of several the first by name of its shard counts, old shards last."""
    if not len(table):
        return table
    lists = table["piece_shard"].combine_chunks()
    shards, starts = lists.flatten().to_numpy(), _starts(lists)
    any_old = np.maximum.reduceat(old[shards].astype(np.int8), starts)
    added = {"old": pa.array(any_old), "shard": pa.array(shards[starts])}
    for name, column in added.items():
        table = table.append_column(name, column)
    table = table.sort_by([(key, "ascending") for key in (*keys, *added)]).drop_columns([*added])
    return table.filter(pa.array(_first_of_each(table, *keys)))


def _gathered(pieces: pa.Table) -> pa.Table:
    """The clips whose pieces are all there; pieces are sorted, each once."""
    starts, complete = _complete(pieces)
    counts = np.diff(np.append(starts, len(pieces)))
    pieces = pieces.filter(pa.array(np.repeat(complete, counts))).combine_chunks()
    counts = counts[complete]
    starts = np.cumsum(counts) - counts
    columns = {name: pieces[name].take(starts) for name in (*_RECORD, "piece_frames")}
    n_frames = pieces["n_frames"].to_numpy().astype(np.int64)
    frames = np.add.reduceat(n_frames, starts) if len(starts) else n_frames
    columns["n_frames"] = pa.array(frames, pa.int32())
    for names, lengths in ((_OF_PIECES, counts), (_OF_FRAMES, frames)):
        for name in names:
            values = pieces[name].combine_chunks().flatten()
            columns[name] = pa.LargeListArray.from_arrays(_offsets(lengths), values)
    return pa.table([columns[name] for name in INDEX_SCHEMA.names], schema=INDEX_SCHEMA)


@dataclass(frozen=True)
class Refused:
    """A clip that is complete and yet not wanted, by the ``Check`` of ``gather_index``."""

    clip_id: str
    error: ClipError


def gather_index(folder: Location, check: Check) -> Iterable[Refused]:
    """Join the parts of the data set into one part that has its complete clips alone; yield those refused.

    The rest is forgotten: pieces of clips that are not complete. No writer may be at work. Parts are deleted
    when all that is refused has been taken from the iterator.
    """
    known = read_manifest(folder)["index"] if exists(join(folder, MANIFEST)) else ""
    parts = [part for part in index_parts(folder) if part.name != known]
    if not parts:
        return
    table = _joined(folder, parts, frozenset())
    frames = table["n_frames"].to_numpy()
    wanted = np.ones(len(table), bool)
    if len(table):
        lists = table["has_face"].combine_chunks()
        faces = np.add.reduceat(lists.flatten().to_numpy(), _starts(lists), dtype=np.int64)
        for number in range(len(table)):
            try:
                check(int(frames[number]), int(faces[number]))
            except ClipError as error:
                wanted[number] = False
                yield Refused(table["clip_id"][number].as_py(), error)
    clips = table.filter(pa.array(wanted))
    if len(clips):
        count = len(clips)
        clips = clips.append_column("first_piece", pa.array(np.zeros(count, np.int32)))
        clips = clips.append_column("has_last", pa.array(np.ones(count, bool)))
        with atomic_file(join(folder, INDEX, f"{uuid.uuid4().hex}.arrow")) as path:
            _write_index(path, _used(clips))
    for part in parts:
        delete(part.location)


def _starts(lists: pa.LargeListArray) -> NDArray[np.int64]:
    """Where each list begins in the flattened values; no list is empty."""
    return np.cumsum(_lengths(lists)) - _lengths(lists)


def _used(table: pa.Table) -> pa.Table:
    """An index with the names of the shards that it uses alone."""
    lists = table["piece_shard"].combine_chunks()
    used = np.unique(lists.flatten().to_numpy())
    names = shard_names(table)
    chosen = [names[number] for number in used]
    numbers = pa.array(np.searchsorted(used, lists.flatten().to_numpy()).astype(np.int32))
    at = table.schema.get_field_index("piece_shard")
    column = pa.LargeListArray.from_arrays(_offsets(_lengths(lists)), numbers)
    return _named(table.set_column(at, table.schema.field(at), column), chosen)


def commit_index(folder: Location, superseded: Set[str] = frozenset()) -> int:
    """Join all index files into one, sorted by clip id, and name it in ``index.json``. Returns its clips.

    Of a clip or a piece that is there twice, since a task was tried again, the one in the first shard by name
    counts.

    Args:
        superseded: shards whose clips are in others, too; those count.
    """
    parts = index_parts(folder)
    if not parts:
        return 0
    manifest = read_manifest(folder) if exists(join(folder, MANIFEST)) else None
    if (
        manifest is not None
        and manifest["format"] == FORMAT
        and [part.name for part in parts] == [manifest["index"]]
    ):
        return int(manifest["clips"])
    table = _used(_joined(folder, parts, superseded))
    name = f"{uuid.uuid4().hex}.arrow"
    with atomic_file(join(folder, INDEX, name)) as path:
        _write_index(path, table)
    frames = int(pc.sum(table["n_frames"]).as_py() or 0)
    clips, shards = len(table), shard_names(table)
    write_json(
        join(folder, MANIFEST),
        {"format": FORMAT, "index": name, "clips": clips, "frames": frames, "shards": shards},
    )
    for part in parts:
        delete(part.location)
    return clips


def read_manifest(folder: Location) -> dict[str, Any]:
    """``index.json`` of a data set.

    Raises:
        UserError: there is none, it is damaged, or the data set is of an older format.
    """
    where = shown(folder)
    if not exists(join(folder, MANIFEST)):
        if not is_uri(folder) and any(Path(folder).glob("split=*/*.parquet")):
            fix = f"Run `safa dataset convert {where} NEW`, which copies its images byte for byte."
            raise UserError("is a data set of an older format", where, fix)
        unfinished = index_parts(folder)
        fix = (
            "Run the same preprocessing again to finish it."
            if unfinished
            else "Give the clips/ of a data set."
        )
        raise UserError(missing(folder, "no data set here (index.json)"), where, fix)
    try:
        record = read_json(join(folder, MANIFEST))
        if record["format"] not in READABLE:
            raise UserError(f"is a data set of format {record['format']}, not {FORMAT}", where)
        if not is_name(record["index"]) or not all(map(is_name, record["shards"])):
            raise ValueError("a name in it is none")
        if any(type(record[key]) is not int or record[key] < 0 for key in ("clips", "frames")):
            raise ValueError("a count in it is none")
        return record
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"cannot be read ({error})", shown(join(folder, MANIFEST)), "Run `safa dataset verify`."
        ) from None


def is_name(name: object) -> bool:
    """Whether this is the name of a file of a data set: nothing that leaves its folder."""
    return (
        isinstance(name, str) and re.fullmatch(r"[0-9a-f]{32}\.(parquet|arrow)", name, re.ASCII) is not None
    )
