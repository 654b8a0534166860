"""Random access to stored clips: a frame costs one ranged read of its own bytes.

The index is mapped into memory, so that opening a million clips reads nothing, and the processes of a machine
share its pages. Clips are numbered in the order of their ids; a number is what samplers keep, since looking
up an id costs more than reading a frame. Frames come from open files (``pread``), or from an object store by
ranges. The format is that of ``safa.data.shards``.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from safa.data.columns import PARTS, column_folder, read_column
from safa.data.images import decode_image
from safa.data.schema import FARTHEST, NUM_LANDMARKS
from safa.data.shards import (
    INDEX,
    LANDMARK_BYTES,
    LENGTH_BYTES,
    SHARDS,
    read_index_file,
    read_manifest,
    shard_names,
)
from safa.errors import ClipError, FailureCode, UserError
from safa.files import (
    Location,
    RangeReader,
    atomic_file,
    copy_file,
    join,
    local_file,
    name_of,
    shown,
    size_of,
)
from safa.reading import reason_of

MAX_OPEN_SHARDS = 128
VERIFY = "Run `safa dataset verify`."
MAX_IMAGE_BYTES = 2**27  # of one frame: more is a damaged index
LANDMARK_ROWS = 1024  # frames whose landmarks are read at once where a clip's are streamed


@dataclass(frozen=True)
class ClipInfo:
    """A stored clip without its frames. ``number`` is its place in the order of ids."""

    number: int
    clip_id: str
    person_id: str
    video_id: str
    split: str
    start: int
    end: int | None  # None: to the end of the file
    n_frames: int
    fps: float
    height: int
    width: int
    bbox: tuple[int, int, int, int]
    source: str


@dataclass(frozen=True)
class StoredPiece:
    """A piece of a clip: ``count`` frames from frame ``first`` on, and where its first image lies."""

    shard: str
    first: int
    count: int
    image_start: int


class ClipStore:
    """Clips of a data set as ``pipelines/preprocess`` writes it.

    Can be pickled: a worker opens the files itself.

    Args:
        folder: of the data set (``clips/`` of a preprocessing run), a path or a URI.
        stage_to: node-local folder that shards are copied to when they are first needed; None reads them
            where they are.
        stage_gb: most that may lie there; further shards are read where they are.
        landmarks: name of the column (``columns/NAME``) whose landmarks count instead of those that were
            stored with the frames; frames of clips that it lacks have none.

    Raises:
        UserError: no data set there, of an older format, or damaged.
    """

    def __init__(
        self,
        folder: Location,
        stage_to: Path | None = None,
        stage_gb: float = 100.0,
        landmarks: str | None = None,
    ) -> None:
        self.folder, self._stage, self._column = folder, (stage_to, stage_gb), landmarks
        self._open()

    def _open(self) -> None:
        manifest = read_manifest(self.folder)
        with local_file(join(self.folder, INDEX, manifest["index"])) as path:
            table = read_index_file(path)  # stays mapped when a copy of an object is gone
        if len(table) != manifest["clips"] or len(table) == 0:
            raise UserError(
                f"index.json counts {manifest['clips']} clips, the index holds {len(table)}",
                shown(self.folder),
                VERIFY,
            )
        self.shards: tuple[str, ...] = tuple(manifest["shards"])
        self.num_frames = int(manifest["frames"])
        self._table = table.combine_chunks()
        self._shard_names = shard_names(table)
        try:
            self._map_columns(self._table.to_batches()[0])
        except (pa.ArrowException, ValueError) as error:
            raise UserError(f"the index is damaged ({error})", shown(self.folder), VERIFY) from None
        self._files: OrderedDict[int, RangeReader] = OrderedDict()
        self._parts: tuple[str, ...] = ()
        if self._column is not None:
            self._choose_column(self._column)

    def _map_columns(self, batch: pa.RecordBatch) -> None:
        """Columns as arrays over the mapped file; that they fit together is checked once, for all clips."""
        self._ids: pa.StringArray = batch.column("clip_id")
        self._piece_frames: NDArray[np.int32] = batch.column("piece_frames").to_numpy(zero_copy_only=True)
        self._n_frames: NDArray[np.int32] = batch.column("n_frames").to_numpy(zero_copy_only=True)
        self._heights: NDArray[np.int32] = batch.column("height").to_numpy(zero_copy_only=True)
        self._widths: NDArray[np.int32] = batch.column("width").to_numpy(zero_copy_only=True)
        # Of every list column: where each clip's values begin, and all values.
        self._pieces, self._image_start = _list_column(batch, "image_start")
        other_pieces, self._landmarks_start = _list_column(batch, "landmarks_start")
        shard_pieces, self._piece_shard = _list_column(batch, "piece_shard")
        self._frames, self._image_size = _list_column(batch, "image_size")
        other_frames, self._has_face = _list_column(batch, "has_face")
        if set(self._shard_names) - set(self.shards):
            raise ValueError("it names a shard that index.json does not")
        if self._piece_shard.min() < 0 or self._piece_shard.max() >= len(self._shard_names):
            raise ValueError("a piece lies in no shard")
        if self._piece_frames.min() < 1 or self._n_frames.min() < 1:
            raise ValueError("a clip has no frames")
        pieces = -(-self._n_frames.astype(np.int64) // self._piece_frames)
        if not all(
            np.array_equal(*pair)
            for pair in (
                (np.diff(self._pieces), pieces),
                (np.diff(self._frames), self._n_frames),
                (self._pieces, other_pieces),
                (self._pieces, shard_pieces),
                (self._frames, other_frames),
            )
        ):
            raise ValueError("pieces and frames do not add up")

    def _choose_column(self, name: str) -> None:
        """Let the landmarks of a column count."""
        column = read_column(self.folder, name, "landmarks")
        place = pc.index_in(self._ids, value_set=column.table["clip_id"].combine_chunks())
        place = place.fill_null(-1).to_numpy(zero_copy_only=False)
        known = place >= 0
        rows = column.table.take(pa.array(place[known])).combine_chunks().to_batches()
        pieces, frames = np.diff(self._pieces), self._n_frames.astype(np.int64)
        starts = np.full(int(pieces.sum()), -1, np.int64)
        faces = np.zeros(int(frames.sum()), np.uint8)
        for batch in rows:  # one, or none
            of_piece, values = _list_column(batch, "values_start")
            of_frame, found = _list_column(batch, "has_face")
            if not (
                np.array_equal(np.diff(of_piece), pieces[known])
                and np.array_equal(np.diff(of_frame), frames[known])
            ):
                where = shown(column_folder(self.folder, name))
                raise UserError("does not fit the clips of this data set", where, "Delete the column.")
            starts[np.repeat(known, pieces)] = values[of_piece[0] : of_piece[-1]]
            faces[np.repeat(known, frames)] = found[of_frame[0] : of_frame[-1]]
        self._landmarks_start, self._has_face, self._parts = starts, faces, column.parts
        self._part = np.where(known, column.part[place] if len(column.part) else 0, 0)

    # ---- what there is -------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._ids)

    def column(self, name: str) -> pa.Array:
        """A column of the index (``INDEX_SCHEMA``), clips in the order of their ids."""
        return self._table[name].combine_chunks()

    def numbers(self, split: str | None = None) -> NDArray[np.int64]:
        """Numbers of the clips of a split, or of all, rising."""
        if split is None:
            return np.arange(len(self))
        encoded = self.column("split").dictionary_encode()
        names = encoded.dictionary.to_pylist()
        if split not in names:
            return np.empty(0, np.int64)
        return np.flatnonzero(encoded.indices.to_numpy(zero_copy_only=False) == names.index(split))

    def clips(self, split: str | None = None) -> Iterator[ClipInfo]:
        """Clips of a split, or all, in the order of their ids."""
        return (self.info(int(number)) for number in self.numbers(split))

    def number(self, clip_id: str) -> int:
        """The number of a clip. Raises ``KeyError`` if it is not here."""
        low, high = 0, len(self._ids)
        while low < high:
            middle = (low + high) // 2
            if self._ids[middle].as_py() < clip_id:
                low = middle + 1
            else:
                high = middle
        if low == len(self._ids) or self._ids[low].as_py() != clip_id:
            raise KeyError(clip_id)
        return low

    def info(self, clip: int | str) -> ClipInfo:
        """What the index says of a clip, by number or id. Raises ``KeyError`` if it is not here."""
        number = self.number(clip) if isinstance(clip, str) else clip
        row = self._table.slice(number, 1).select(_INFO).to_pylist()[0]
        return ClipInfo(number=number, **row | {"bbox": tuple(row["bbox"])})

    def clip_id(self, number: int) -> str:
        """The id of a clip."""
        name: str = self._ids[number].as_py()
        return name

    def n_frames(self, number: int) -> int:
        """How many frames a clip has."""
        return int(self._n_frames[number])

    def image_bytes(self, number: int) -> int:
        """Bytes of all images of a clip."""
        return int(self.image_sizes(number).sum(dtype=np.int64))

    def image_sizes(self, number: int) -> NDArray[np.int32]:
        """(T,): bytes of each image of a clip."""
        first = self._frames[number]
        sizes: NDArray[np.int32] = self._image_size[first : first + self._n_frames[number]]
        return sizes

    def has_face(self, clip: int | str) -> NDArray[np.bool_]:
        """(T,): which frames have landmarks. From the index: nothing is read."""
        number = self._number(clip)
        first = self._frames[number]
        faces: NDArray[np.bool_] = self._has_face[first : first + self._n_frames[number]] != 0
        return faces

    # ---- frames --------------------------------------------------------------------------------------------

    def frames(self, clip: int | str, indices: Sequence[int]) -> list[NDArray[np.uint8]]:
        """Decoded frames, (H, W, 3) uint8 RGB each, in the order asked for.

        Raises:
            IndexError: the clip has no such frame.
            ClipError: ``decode``, if it cannot be read, or is not what the index says.
        """
        number = self._number(clip)
        size = (self._heights.item(number), self._widths.item(number))
        return [self._frame(number, index, size) for index in indices]

    def _frame(self, number: int, index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        encoded = self._encoded(number, index)
        with self._reading(number, index):
            frame = decode_image(encoded)
            if frame.shape[:2] != size:
                raise ValueError(f"{frame.shape[1]} x {frame.shape[0]} px, not {size[1]} x {size[0]}")
        return frame

    def _encoded(self, number: int, index: int) -> bytes:
        with self._reading(number, index):
            return self._file(self._shard_of(number, index)).read(*self.image_range(number, index))

    @contextmanager
    def _reading(self, number: int, index: int) -> Iterator[None]:
        """The boundary of what is stored: what a disk, a store or a decoder raises is the clip's fault.

        Raises:
            ClipError: in place of any error of the block but ``IndexError``, a caller's mistake.
        """
        try:
            yield
        except IndexError:
            raise
        except Exception as error:
            where = f"{self.clip_id(number)}, frame {index}"
            raise ClipError(FailureCode.DECODE, f"{where}: {reason_of(error)}") from None

    def encoded_frames(self, clip: int | str, indices: Sequence[int]) -> list[bytes]:
        """The same as stored: JPEG or PNG.

        Raises:
            IndexError, ClipError: as ``frames``, but the pictures are not decoded.
        """
        number = self._number(clip)
        return [self._encoded(number, index) for index in indices]

    def landmarks(self, clip: int | str, indices: Sequence[int] | None = None) -> NDArray[np.float32]:
        """(T, 68, 2) px of the chosen frames, or of all; NaN where there is no face.

        Raises:
            IndexError, ClipError: as ``frames``.
        """
        number = self._number(clip)
        if indices is None:
            return np.concatenate(list(self.landmark_pieces(number)))
        return np.concatenate([self._points(number, index, 1) for index in indices])

    def landmark_range(self, clip: int | str, first: int, last: int) -> NDArray[np.float32]:
        """(T, 68, 2) px of frames ``first`` to ``last`` (excluded), in one read of each piece.

        Raises:
            IndexError, ClipError: as ``frames``.
        """
        number, parts = self._number(clip), list[NDArray[np.float32]]()
        length = int(self._piece_frames[number])
        while first < last:
            end = min(last, (first // length + 1) * length)
            parts.append(self._points(number, first, end - first))
            first = end
        return np.concatenate(parts)

    def landmark_pieces(self, clip: int | str) -> Iterator[NDArray[np.float32]]:
        """All of them piece by piece, (t, 68, 2) each: a long clip need not be in memory."""
        number = self._number(clip)
        total, length = self.n_frames(number), int(self._piece_frames[number])
        step = min(length, LANDMARK_ROWS)
        for piece in range(0, total, length):
            end = min(piece + length, total)
            for first in range(piece, end, step):
                yield self._points(number, first, min(step, end - first))

    def _points(self, number: int, index: int, count: int) -> NDArray[np.float32]:
        """(count, 68, 2) px of ``count`` frames of one piece from ``index`` on."""
        with self._reading(number, index):
            data = self._landmark_bytes(number, index, count)
            # A copy: an array over bytes cannot be written to, and torch does not take it.
            points = np.frombuffer(data, "<f4").reshape(-1, NUM_LANDMARKS, 2).copy()  # -> (T, 68, 2)
            if (np.abs(points) > FARTHEST).any():  # never true of NaN
                raise ValueError("landmarks that lie in no picture")
        return points

    def _landmark_bytes(self, number: int, index: int, count: int) -> bytes:
        """Landmarks of ``count`` frames of one piece from ``index`` on; NaN where the column has none."""
        at = self.landmarks_at(number, index)
        if at < 0:
            return np.full(count * 2 * NUM_LANDMARKS, np.nan, "<f4").tobytes()
        file = -1 - self._part.item(number) if self._parts else self._shard_of(number, index)
        return self._file(file).read(at, count * LANDMARK_BYTES)

    def image_range(self, number: int, index: int) -> tuple[int, int]:
        """Where a frame's image lies in its shard: first byte and length."""
        piece, within = divmod(self._checked(number, index), self._piece_frames.item(number))
        first = self._frames.item(number) + index
        before = self._image_size[first - within : first]  # (within,): of the images before it in the piece
        at = self._image_start.item(self._pieces.item(number) + piece)
        at += int(before.sum(dtype=np.int64)) + LENGTH_BYTES * (within + 1)
        length = self._image_size.item(first)
        if not 0 < length <= MAX_IMAGE_BYTES:
            raise OSError(f"the index gives an image of {length} bytes, {self.clip_id(number)} frame {index}")
        return at, length

    def landmarks_at(self, number: int, index: int) -> int:
        """First byte of a frame's ``LANDMARK_BYTES`` of landmarks in its file; -1: the column lacks them."""
        piece, within = divmod(self._checked(number, index), self._piece_frames.item(number))
        start: int = self._landmarks_start.item(self._pieces.item(number) + piece)
        return start + LANDMARK_BYTES * within if start >= 0 else start

    def _checked(self, number: int, index: int) -> int:
        if not 0 <= index < self._n_frames.item(number):
            raise IndexError(
                f"{self.clip_id(number)} has {self.n_frames(number)} frames, not one numbered {index}"
            )
        return index

    def _number(self, clip: int | str) -> int:
        return self.number(clip) if isinstance(clip, str) else clip

    def pieces(self, number: int) -> list[StoredPiece]:
        """The pieces of a clip, in order."""
        length, total = self._piece_frames.item(number), self.n_frames(number)
        at = range(self._pieces.item(number), self._pieces.item(number + 1))
        return [
            StoredPiece(
                self._shard_names[self._piece_shard.item(row)],
                number_of * length,
                min(length, total - number_of * length),
                self._image_start.item(row),
            )
            for number_of, row in enumerate(at)
        ]

    def _shard_of(self, number: int, index: int) -> int:
        """The number of the shard that a frame lies in."""
        piece = self._checked(number, index) // self._piece_frames.item(number)
        shard: int = self._piece_shard.item(self._pieces.item(number) + piece)
        return shard

    def _file(self, shard: int) -> RangeReader:
        """A shard, opened, or part -1 - ``shard`` of the column; the least recently used ones are closed."""
        file = self._files.get(shard)
        if file is None:
            file = self._files[shard] = RangeReader(self._location(shard))
            if len(self._files) > MAX_OPEN_SHARDS:
                self._files.popitem(last=False)[1].close()
        else:
            self._files.move_to_end(shard)
        return file

    def _location(self, shard: int) -> Location:
        if shard < 0:
            column = column_folder(self.folder, str(self._column))
            where = join(column, PARTS, f"{self._parts[-1 - shard]}.parquet")
        else:
            where = join(self.folder, SHARDS, self._shard_names[shard])
        folder, budget = self._stage
        return where if folder is None else stage(where, folder, budget)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_stage": self._stage, "_column": self._column}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


_INFO = [
    *("clip_id", "person_id", "video_id", "split", "start", "end"),
    *("n_frames", "fps", "height", "width", "bbox", "source"),
]


def _list_column(batch: pa.RecordBatch, name: str) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Where each row's values begin, (N + 1,), and the values of all rows."""
    column = batch.column(name)
    return column.offsets.to_numpy(zero_copy_only=True), column.values.to_numpy(zero_copy_only=True)


def stage(shard: Location, folder: Path, budget_gb: float) -> Location:
    """A copy of a shard on this machine, made once for all processes; the shard itself if the folder is full.

    Args:
        folder: node-local.
        budget_gb: of all that lies in ``folder``.
    """
    origin = hashlib.sha256(str(shard).encode()).hexdigest()[:16]
    target = folder / f"{origin}-{name_of(shard)}"
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be copying this very shard
        if target.is_file():
            return target
        used = sum(path.stat().st_size for path in folder.iterdir())
        if used + size_of(shard) > budget_gb * 2**30:
            return shard
        with atomic_file(target) as temporary:
            copy_file(shard, temporary)
    return target
