"""Whole data sets: verify one, join its small shards, convert one of the older format, export clips."""

from __future__ import annotations

import bisect
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from safa.data.clip_store import ClipInfo, ClipStore, StoredPiece
from safa.data.images import decode_image
from safa.data.schema import NUM_LANDMARKS, is_safe_name
from safa.data.shards import (
    MANIFEST,
    SHARDS,
    ClipRecord,
    ShardWriter,
    commit_index,
    read_manifest,
    stored_clips,
)
from safa.data.video import write_video
from safa.errors import ClipError, UserError
from safa.files import (
    Location,
    atomic_dir,
    atomic_file,
    delete,
    entries,
    exists,
    join,
    local_file,
    location,
    shown,
)
from safa.reading import boundary
from safa.tables import open_parquet, read_group, read_table

SHARD_BYTES = 2**29  # of images in a shard that is joined or converted
PIECE_FRAMES = 128
OPEN_SHARDS = 32
OLD_COLUMNS = [
    "clip_id",
    "person_id",
    "video_id",
    "split",
    "start",
    "end",
    "piece",
    "n_frames",
    "fps",
    "height",
]
OLD_COLUMNS += ["width", "frames", "landmarks", "face_score", "bbox", "source"]

Progress = Callable[[int], None]  # called with the frames of each clip that is done


def clips_folder(dataset: str | Location) -> Location:
    """The data set that a person means: a run folder of preprocessing or of the chain, or its ``clips/``."""
    where = location(str(dataset))
    places = (join(where, "clips"), join(where, "data", "clips"))
    return next((place for place in places if exists(join(place, MANIFEST))), where)


def _record(info: ClipInfo) -> ClipRecord:
    return ClipRecord(**{name: getattr(info, name) for name in ClipRecord.__dataclass_fields__})


# ---- verify ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verified:
    """What ``verify`` saw: how much there is, how much of it was read, and what is wrong, one line each."""

    clips: int
    frames: int
    n_bytes: int
    unreferenced: tuple[str, ...]  # shards that the index does not name: of a run that was killed
    errors: tuple[str, ...]


def verify(folder: Location, progress: Progress = lambda n_frames: None) -> Verified:
    """Read every byte range that the index gives and compare it with what Parquet reads there.

    Raises:
        UserError: no data set, or an index that cannot be opened.
    """
    store = ClipStore(folder)
    errors: list[str] = []
    frames = n_bytes = 0
    for shard, pieces in _pieces_by_shard(store, range(len(store))).items():
        try:
            where = join(folder, SHARDS, shard)
            with local_file(where) as path, boundary(shown(where), "cannot be read"):
                file = open_parquet(path)
                for number, piece in pieces:
                    rows = _rows_of(file, path, store.clip_id(number), piece)
                    errors += _differences(store, number, piece, rows)
                    frames += len(rows)
                    n_bytes += sum(map(len, rows["image"].to_pylist()))
                    progress(len(rows))
        except (UserError, ClipError) as error:
            errors.append(f"{shard}: {error}")
    there = {entry.name for entry in entries(join(folder, SHARDS))}
    if frames != store.num_frames and not errors:
        errors.append(f"index.json counts {store.num_frames} frames, the clips have {frames}")
    return Verified(len(store), frames, n_bytes, tuple(sorted(there - set(store.shards))), tuple(errors))


def _pieces_by_shard(store: ClipStore, numbers: Iterable[int]) -> dict[str, list[tuple[int, StoredPiece]]]:
    """The pieces of these clips in each shard, with the clip's number, in the order of the shard's bytes."""
    shards: dict[str, list[tuple[int, StoredPiece]]] = {}
    for number in numbers:
        for piece in store.pieces(number):
            shards.setdefault(piece.shard, []).append((number, piece))
    return {
        shard: sorted(pieces, key=lambda pair: pair[1].image_start)
        for shard, pieces in sorted(shards.items())
    }


def _rows_of(file: pq.ParquetFile, path: Path, clip_id: str, piece: StoredPiece) -> pa.Table:
    """The rows of a piece: those of the row group in which its first image lies.

    Raises:
        OSError: they are not there.
    """
    metadata = file.metadata
    image = [metadata.schema.column(n).path for n in range(metadata.num_columns)].index("image")
    starts = [metadata.row_group(n).column(image).data_page_offset for n in range(metadata.num_row_groups)]
    group = bisect.bisect_right(starts, piece.image_start) - 1
    if group < 0 or metadata.row_group(group).num_rows != piece.count:
        raise OSError(f"clip {clip_id} is not all there")
    rows = read_group(file, group, path)
    if len(rows) != piece.count or set(rows["clip_id"].to_pylist()) != {clip_id}:
        raise OSError(f"clip {clip_id} is not all there")
    return rows


def _differences(store: ClipStore, number: int, piece: StoredPiece, rows: pa.Table) -> list[str]:
    """What the index and the rows of a piece disagree on; empty if nothing."""
    name, here = store.clip_id(number), range(piece.first, piece.first + piece.count)
    if rows["frame"].to_pylist() != list(here):
        return [f"{name}: frames are not {here[0]} to {here[-1]}"]
    errors = []
    ranged, images = store.encoded_frames(number, here), rows["image"].to_pylist()
    wrong = [i for i, pair in zip(here, zip(ranged, images, strict=True), strict=True) if pair[0] != pair[1]]
    if wrong:
        errors.append(f"{name}: the byte range of frame {wrong[0]} does not hold its image")
    points = _points(rows)
    if not np.array_equal(store.landmarks(number, here), points, equal_nan=True):
        errors.append(f"{name}: the byte ranges of its landmarks do not hold them")
    faces = store.has_face(number)[here.start : here.stop]
    if not np.array_equal(faces, np.isfinite(points).all(axis=(1, 2))):
        errors.append(f"{name}: the index is wrong about which frames show a face")
    for i, image in zip(here, ranged, strict=True):
        try:
            decode_image(image)
        except ValueError as error:
            errors.append(f"{name}, frame {i}: {error}")
            break
    return errors


# ---- compact -----------------------------------------------------------------------------------------------


def compact(
    folder: Location, shard_bytes: int = SHARD_BYTES, progress: Progress = lambda n_frames: None
) -> tuple[int, int]:
    """Join the clips of shards smaller than half of ``shard_bytes`` into shards of that size.

    Images are copied byte for byte. New shards and a new index come first, old ones go last, so that a reader
    that has the data set open keeps what it opened, and a run that is killed leaves a whole data set.

    Returns:
        How many shards there were, and how many there are.
    """
    store = ClipStore(folder)
    sizes = Counter(
        {
            shard: sum(sum(store.image_sizes(number)[p.first : p.first + p.count]) for number, p in pieces)
            for shard, pieces in _pieces_by_shard(store, range(len(store))).items()
        }
    )
    small = {name for name, total in sizes.items() if total < shard_bytes / 2}
    if len(small) < 2:
        return len(store.shards), len(store.shards)
    moved = [n for n in range(len(store)) if any(piece.shard in small for piece in store.pieces(n))]
    _rewrite(store, moved, folder, shard_bytes, progress)
    commit_index(folder, superseded=small)
    left = set(read_manifest(folder)["shards"])
    for name in sorted(set(store.shards) - left):
        delete(join(folder, SHARDS, name))
    return len(store.shards), len(left)


def _rewrite(
    store: ClipStore, numbers: Sequence[int], folder: Location, shard_bytes: int, progress: Progress
) -> None:
    """Copy these clips into new shards, byte for byte, in the order in which their bytes lie."""
    first = {
        number: (store.pieces(number)[0].shard, store.pieces(number)[0].image_start) for number in numbers
    }
    remaining = iter(sorted(numbers, key=first.__getitem__))
    with ExitStack() as stack:
        shards = _OpenShards(store, stack)
        number = next(remaining, None)
        while number is not None:
            with ShardWriter(folder) as writer:
                while number is not None and writer.n_bytes < shard_bytes:
                    _copy_clip(store, number, shards, writer)
                    progress(store.n_frames(number))
                    number = next(remaining, None)


class _OpenShards:
    """Shards as Parquet files, the latest ones kept open."""

    def __init__(self, store: ClipStore, stack: ExitStack) -> None:
        self._store, self._files = store, OrderedDict[str, tuple[pq.ParquetFile, Path, ExitStack]]()
        stack.callback(self._close)

    def __getitem__(self, shard: str) -> tuple[pq.ParquetFile, Path]:
        if shard not in self._files:
            if len(self._files) >= OPEN_SHARDS:
                self._files.popitem(last=False)[1][2].close()
            stack = ExitStack()
            path = stack.enter_context(local_file(join(self._store.folder, SHARDS, shard)))
            self._files[shard] = (open_parquet(path), path, stack)
        self._files.move_to_end(shard)
        return self._files[shard][:2]

    def _close(self) -> None:
        for *_, stack in self._files.values():
            stack.close()


def _copy_clip(store: ClipStore, number: int, shards: _OpenShards, writer: ShardWriter) -> None:
    record = _record(store.info(number))
    for piece in store.pieces(number):
        try:
            rows = _rows_of(*shards[piece.shard], record.clip_id, piece)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot be read ({error})", piece.shard, "Run `safa dataset verify`.") from None
        images, scores = rows["image"].to_pylist(), rows["face_score"].to_numpy()
        writer.add_piece(record.clip_id, piece.first, images, _points(rows), scores)
    writer.keep(record)


def _add_clip(
    writer: ShardWriter,
    record: ClipRecord,
    images: Sequence[bytes],
    landmarks: NDArray[np.float32],
    scores: NDArray[np.float32],
) -> None:
    """Add a whole clip to a shard, in pieces."""
    for first in range(0, len(images), PIECE_FRAMES):
        part = slice(first, first + PIECE_FRAMES)
        writer.add_piece(record.clip_id, first, images[part], landmarks[part], scores[part])
    writer.keep(record)


def _points(rows: pa.Table) -> NDArray[np.float32]:
    """The landmarks column as (T, 68, 2)."""
    flat = rows["landmarks"].combine_chunks().flatten().to_numpy()
    points: NDArray[np.float32] = flat.reshape(-1, NUM_LANDMARKS, 2)  # (T * 136,) -> (T, 68, 2)
    return points


# ---- convert -----------------------------------------------------------------------------------------------


def convert(
    old: Path, new: Location, shard_bytes: int = SHARD_BYTES, progress: Progress = lambda n_frames: None
) -> int:
    """Copy a data set of the older format (``split=*/<clip>.parquet``) into shards, images byte for byte.

    Run again, it copies the clips that are not there yet. Returns the number of clips.

    Raises:
        UserError: no older data set there, or a file that is not one of its clips.
    """
    files = sorted(old.glob("split=*/*.parquet"))
    if not files:
        raise UserError("no data set of the older format here (split=*/*.parquet)", str(old))
    there = stored_clips(new)
    remaining = (file for file in files if file.stem not in there)
    path = next(remaining, None)
    while path is not None:
        with ShardWriter(new) as writer:
            while path is not None and writer.n_bytes < shard_bytes:
                progress(_convert_file(path, writer, there))
                path = next(remaining, None)
    return commit_index(new)


def _convert_file(path: Path, writer: ShardWriter, there: set[str]) -> int:
    """Copy the clips of a file; returns the number of frames."""
    fix = "Delete it and convert again."
    try:
        rows = read_table(path, OLD_COLUMNS).to_pylist()
    except UserError as error:
        raise UserError(f"not a file of clips ({error.what})", str(path), fix) from None
    with boundary(str(path), "not a file of clips", fix):
        return _copy_old_clips(path, rows, writer, there)


def _copy_old_clips(path: Path, rows: list[dict[str, Any]], writer: ShardWriter, there: set[str]) -> int:
    clips: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        clips.setdefault(row["clip_id"], []).append(row)
    for clip_id, pieces in clips.items():
        if clip_id in there:
            continue
        pieces.sort(key=lambda row: row["piece"])
        if [row["piece"] for row in pieces] != list(range(len(pieces))):
            raise UserError(f"clip {clip_id} lacks a piece, or has one twice", str(path))
        _add_old_clip(pieces, writer)
    return sum(len(row["frames"]) for row in rows)


def _add_old_clip(pieces: list[dict[str, Any]], writer: ShardWriter) -> None:
    images = [image for row in pieces for image in row["frames"]]
    points = np.array([p for row in pieces for p in row["landmarks"]], np.float32)
    scores = np.array([score for row in pieces for score in row["face_score"]], np.float32)
    fields = {name: pieces[0][name] for name in ClipRecord.__dataclass_fields__}
    record = ClipRecord(**fields | {"bbox": tuple(pieces[0]["bbox"])})
    _add_clip(writer, record, images, points.reshape(-1, NUM_LANDMARKS, 2), scores)  # (T, 136) -> (T, 68, 2)


# ---- export ------------------------------------------------------------------------------------------------


def export(store: ClipStore, number: int, folder: Path, form: Literal["mp4", "png"]) -> Path:
    """Write one clip as the field stores them: ``<split>/<clip id>.mp4``, or a folder of ``0000000.png``.

    Beside it lies ``<clip id>.landmarks.npy``, (T, 68, 2) float32 px. What is there already stays.
    """
    info = store.info(number)
    if not all(map(is_safe_name, (info.split, info.person_id))) or "/" in info.clip_id:
        raise UserError(f"{info.clip_id!r} is not the name of a file", "clip id")
    where = folder / info.split / (info.clip_id if form == "png" else f"{info.clip_id}.mp4")
    if where.exists():
        return where
    with atomic_file(where.with_name(f"{info.clip_id}.landmarks.npy")) as temporary:
        np.save(temporary, store.landmarks(number))
    frames = (store.frames(number, [index])[0] for index in range(info.n_frames))
    if form == "mp4":
        write_video(where, frames, info.fps, crf=10)  # nearly lossless: these are inputs of other programs
        return where
    with atomic_dir(where) as temporary:
        for index, frame in enumerate(frames):
            Image.fromarray(frame).save(temporary / f"{index:07d}.png", compress_level=1)
    return where
