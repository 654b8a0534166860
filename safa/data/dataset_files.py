"""Whole data sets: verify one, join its small shards, convert one of the older format, export clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from safa.data.clip_store import ClipInfo, ClipStore
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
from safa.errors import UserError
from safa.files import Location, atomic_dir, atomic_file, delete, entries, exists, join, local_file, location

SHARD_BYTES = 2**29  # of images in a shard that is joined or converted
PIECE_FRAMES = 128
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
    """The data set that a person means: a run folder of preprocessing, or its ``clips/``."""
    where = location(str(dataset))
    return join(where, "clips") if exists(join(where, "clips", MANIFEST)) else where


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
    by_shard: dict[str, list[int]] = {}
    for number, shard in enumerate(store.column("shard").to_pylist()):
        by_shard.setdefault(shard, []).append(number)
    for shard, numbers in sorted(by_shard.items()):
        try:
            with local_file(join(folder, SHARDS, shard)) as path:
                for clip_id, rows in _stored_clips(
                    path, {store.clip_id(n): store.n_frames(n) for n in numbers}
                ):
                    errors += _differences(store, store.number(clip_id), rows)
                    frames += len(rows)
                    n_bytes += store.image_bytes(store.number(clip_id))
                    progress(len(rows))
        except (UserError, OSError, pa.ArrowException) as error:
            errors.append(f"{shard}: {error}")
    there = {entry.name for entry in entries(join(folder, SHARDS))}
    if frames != store.num_frames and not errors:
        errors.append(f"index.json counts {store.num_frames} frames, the clips have {frames}")
    return Verified(len(store), frames, n_bytes, tuple(sorted(there - set(store.shards))), tuple(errors))


def _stored_clips(path: Path, lengths: Mapping[str, int]) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each of these clips in a shard, in the order of the shard.

    Args:
        lengths: number of frames of each clip.

    Raises:
        OSError: a clip is not all there.
    """
    file = pq.ParquetFile(path)
    pieces: dict[str, list[pa.Table]] = {}
    remaining = set(lengths)
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        clip_id = table["clip_id"][0].as_py()
        if clip_id in remaining:
            pieces.setdefault(clip_id, []).append(table)
            if sum(map(len, pieces[clip_id])) >= lengths[clip_id]:
                remaining.remove(clip_id)
                yield clip_id, pa.concat_tables(pieces.pop(clip_id))
    if remaining:
        raise OSError(f"clip {min(remaining)} is not all there")


def _differences(store: ClipStore, number: int, rows: pa.Table) -> list[str]:
    """What the index and the rows of a clip disagree on; empty if nothing."""
    name, count = store.clip_id(number), store.n_frames(number)
    if rows["frame"].to_pylist() != list(range(count)):
        return [f"{name}: frames are not 0 to {count - 1}"]
    errors = []
    ranged, images = store.encoded_frames(number, range(count)), rows["image"].to_pylist()
    wrong = [i for i in range(count) if ranged[i] != images[i]]
    if wrong:
        errors.append(f"{name}: the byte range of frame {wrong[0]} does not hold its image")
    points = _points(rows)
    if not np.array_equal(store.landmarks(number), points, equal_nan=True):
        errors.append(f"{name}: the byte ranges of its landmarks do not hold them")
    if not np.array_equal(store.has_face(number), np.isfinite(points).all(axis=(1, 2))):
        errors.append(f"{name}: the index is wrong about which frames show a face")
    for i, image in enumerate(ranged):
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
    images = np.zeros(len(store.shards), np.int64)
    place = {name: number for number, name in enumerate(store.shards)}
    shards = [place[name] for name in store.column("shard").to_pylist()]
    totals = [int(sum(store.column("image_size")[i].as_py())) for i in range(len(store))]
    np.add.at(images, shards, totals)
    small = {name for name, total in zip(store.shards, images, strict=True) if total < shard_bytes / 2}
    if len(small) < 2:
        return len(store.shards), len(store.shards)
    _rewrite(store, sorted(small), folder, shard_bytes, progress)
    commit_index(folder, superseded=small)
    for name in sorted(small):
        delete(join(folder, SHARDS, name))
    return len(store.shards), len(read_manifest(folder)["shards"])


def _rewrite(
    store: ClipStore, shards: Sequence[str], folder: Location, shard_bytes: int, progress: Progress
) -> None:
    """Copy the clips of these shards into new ones, byte for byte."""
    clips = _clips_of_shards(store, shards)
    clip = next(clips, None)
    while clip is not None:
        with ShardWriter(folder) as writer:
            while clip is not None and writer.n_bytes < shard_bytes:
                info, rows = clip
                _add_clip(
                    writer,
                    _record(info),
                    rows["image"].to_pylist(),
                    _points(rows),
                    rows["face_score"].to_numpy(),
                )
                progress(len(rows))
                clip = next(clips, None)


def _clips_of_shards(store: ClipStore, shards: Sequence[str]) -> Iterator[tuple[ClipInfo, pa.Table]]:
    by_shard: dict[str, dict[str, int]] = {}
    for number, shard in enumerate(store.column("shard").to_pylist()):
        by_shard.setdefault(shard, {})[store.clip_id(number)] = store.n_frames(number)
    for shard in shards:
        with local_file(join(store.folder, SHARDS, shard)) as path, _damage(shard):
            for clip_id, rows in _stored_clips(path, by_shard[shard]):
                yield store.info(clip_id), rows


@contextmanager
def _damage(shard: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot be read ({error})", shard, "Run `safa dataset verify`.") from None


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
    try:
        rows = pq.read_table(path, columns=OLD_COLUMNS).to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UserError(f"not a file of clips ({error})", str(path), "Delete it and convert again.") from None
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
