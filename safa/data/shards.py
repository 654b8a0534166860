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

A writer closes its shard and then adds an index file of its own; ``commit_index`` joins these into one,
sorted by clip id, so that nothing that reads the data set depends on who wrote what.
"""

from __future__ import annotations

import json
import re
import tempfile
import uuid
from collections.abc import Sequence, Set
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
from safa.errors import UserError
from safa.files import (
    Entry,
    Location,
    atomic_file,
    delete,
    entries,
    exists,
    is_uri,
    join,
    local_file,
    publish,
    read_bytes,
    shown,
    write_json,
)

FORMAT = 2
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
        ("shard", pa.string()),  # file name in shards/
        ("piece_frames", pa.int32()),  # frames in each piece but the last
        ("image_start", pa.large_list(pa.int64())),  # for each piece: byte of its first image's length field
        ("landmarks_start", pa.large_list(pa.int64())),  # for each piece: byte of its first landmarks
        ("image_size", pa.large_list(pa.int32())),  # for each frame, in bytes
        ("has_face", pa.large_list(pa.uint8())),  # for each frame: 1 if all its landmarks are known
    ]
)


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


class ShardWriter:
    """One shard that is being written. Use as a context; its clips exist once the context ends.

    Pieces are streamed to the file; then ``keep`` says that they are a clip, or ``drop`` that they are none:
    their rows stay in the shard, and the index leaves them out. Without a clip no file is left.

    Args:
        folder: of the data set.
        part: name of the index file to write, without suffix; a random one if empty.
    """

    def __init__(self, folder: Location, part: str = "") -> None:
        self._folder, self._part = folder, part or uuid.uuid4().hex
        self._name = f"{uuid.uuid4().hex}.parquet"
        self._stack = ExitStack()
        self._pieces: list[_Piece] = []
        self._kept: list[
            tuple[ClipRecord, int, int]
        ] = []  # clip, its first piece, and the one after its last
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
        """The pieces since the last ``keep`` or ``drop`` are this clip."""
        self._kept.append((record, self._first, len(self._pieces)))
        self._first = len(self._pieces)

    def drop(self) -> None:
        """The pieces since the last ``keep`` or ``drop`` are no clip."""
        self._first = len(self._pieces)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is None and self._kept:
                self._writer.close()
                rows = pa.Table.from_pylist(self._index_rows(), schema=INDEX_SCHEMA)
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
                **vars(record),
                "n_frames": sum(len(piece.sizes) for piece in self._pieces[first:end]),
                "shard": self._name,
                "piece_frames": len(self._pieces[first].sizes),
                "image_start": [at for at, _ in starts[first:end]],
                "landmarks_start": [points for _, points in starts[first:end]],
                "image_size": [size for piece in self._pieces[first:end] for size in piece.sizes],
                "has_face": [face for piece in self._pieces[first:end] for face in piece.faces],
            }
            for record, first, end in self._kept
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
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, INDEX_SCHEMA) as writer:
        writer.write_table(rows.combine_chunks())


def read_index_file(path: Path) -> pa.Table:
    """An index file, mapped into memory: only what is looked at is read.

    Raises:
        UserError: damaged, or no index.
    """
    try:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"not an index of clips ({error})", str(path), "Run `safa dataset verify`.") from None
    if not table.schema.equals(INDEX_SCHEMA):
        raise UserError("is not the index of a data set of this version", str(path))
    return table


def index_parts(folder: Location) -> list[Entry]:
    """All index files of a data set: those of single shards, and the joined one."""
    if not exists(join(folder, INDEX)):
        return []
    files = entries(join(folder, INDEX))
    return sorted(file for file in files if file.suffix == ".arrow" and not file.name.startswith("."))


def stored_clips(folder: Location) -> set[str]:
    """Ids of all clips that are there, those of a run that is not finished too."""
    ids: set[str] = set()
    for part in index_parts(folder):
        with local_file(part.location) as path:
            ids.update(read_index_file(path)["clip_id"].to_pylist())
    return ids


def commit_index(folder: Location, superseded: Set[str] = frozenset()) -> int:
    """Join all index files into one, sorted by clip id, and name it in ``index.json``. Returns its clips.

    Of a clip that is there twice, since a task was tried again, the one in the first shard by name counts.

    Args:
        superseded: shards whose clips are in others, too; those count.
    """
    parts = index_parts(folder)
    if not parts:
        return 0
    manifest = read_manifest(folder) if exists(join(folder, MANIFEST)) else None
    if manifest is not None and [part.name for part in parts] == [manifest["index"]]:
        return int(manifest["clips"])
    with ExitStack() as stack:
        paths = [stack.enter_context(local_file(part.location)) for part in parts]
        table = pa.concat_tables([read_index_file(path) for path in paths])
        old = pc.is_in(table["shard"], pa.array(sorted(superseded), pa.string()))
        keys = [("clip_id", "ascending"), ("old", "ascending"), ("shard", "ascending")]
        order = pc.sort_indices(table.append_column("old", old.cast(pa.int8())), sort_keys=keys)
        ids = table["clip_id"].combine_chunks().take(order)
        first = np.ones(len(ids), bool)
        if len(ids) > 1:
            first[1:] = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1)).to_numpy(zero_copy_only=False)
        table = table.take(order.filter(pa.array(first)))
        name = f"{uuid.uuid4().hex}.arrow"
        with atomic_file(join(folder, INDEX, name)) as path:
            _write_index(path, table)
    shards = sorted(set(table["shard"].to_pylist()))
    frames = int(pc.sum(table["n_frames"]).as_py() or 0)
    record = {"format": FORMAT, "index": name, "clips": len(table), "frames": frames, "shards": shards}
    write_json(join(folder, MANIFEST), record)
    for part in parts:
        delete(part.location)
    return len(table)


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
        raise UserError("no data set here (index.json)", where, fix)
    try:
        record = json.loads(read_bytes(join(folder, MANIFEST)))
        if record["format"] != FORMAT:
            raise UserError(f"is a data set of format {record['format']}, not {FORMAT}", where)
        if not is_name(record["index"]) or not all(map(is_name, record["shards"])):
            raise ValueError("a name in it is none")
        return dict(record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"cannot be read ({error})", shown(join(folder, MANIFEST)), "Run `safa dataset verify`."
        ) from None


def is_name(name: object) -> bool:
    """Whether this is the name of a file of a data set: nothing that leaves its folder."""
    return (
        isinstance(name, str) and re.fullmatch(r"[0-9a-f]{32}\.(parquet|arrow)", name, re.ASCII) is not None
    )
