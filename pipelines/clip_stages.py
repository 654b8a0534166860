"""The stages of preprocessing, as Ray Data runs them on workers: download, crop, landmarks, write.

A stage turns a stream of items into another: videos (the clips that are to be made of one), then pieces of
clips, then outcomes. So stages can run in processes of their own, with tables between them, or one after the
other in the same process (``StageRunner``). An input that cannot be used travels on as a ``Failure``; it
never stops a stage. Rows carry ids and encoded frames, never raw video.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from pipelines.stage_clock import StageClock
from pipelines.worker_deaths import Attempts
from safa.config.preprocess import (
    DlibLandmarksConfig,
    FaceAlignmentLandmarks,
    MetadataSource,
    PreprocessConfig,
)
from safa.data.clip_maker import Piece, add_landmarks, crop_clip, write_piece
from safa.data.detectors import LandmarkDetector
from safa.data.detectors.loading import load_landmark_detector
from safa.data.download.base import Downloader
from safa.data.download.retry import downloaded, fetch, make_downloader
from safa.data.landmarks import Landmarks, sidecar_names
from safa.data.schema import NUM_LANDMARKS
from safa.data.shards import INDEX, ClipRecord, ShardWriter, read_index_file
from safa.data.sources import ClipJob
from safa.errors import ClipError, Failure, FailureCode
from safa.files import Location, exists, join, local_copy, local_file, name_of

CLIPS = "clips"  # folder of the data set in a run folder of preprocess
DOWNLOAD, CROP, LANDMARKS, WRITE = STAGES = ("download", "crop", "landmarks", "write")
MAX_SHARD_BYTES = 2**29  # of images
MAX_SHARD_SECONDS = 60.0  # of work, which is what a worker that dies can lose


@dataclass(frozen=True)
class Video:
    """Clips that are to be made of one video; ``more``: others follow, so that a download is kept."""

    jobs: tuple[ClipJob, ...]
    more: bool = False


@dataclass(frozen=True)
class Stored:
    """A piece that has been written; ``number`` in its clip, ``last`` if no other follows."""

    clip_id: str
    number: int
    n_frames: int
    last: bool


Item = Video | Piece | Stored | Failure


class ClipStage(Protocol):
    """One stage: a stream of items to another. Failures pass through."""

    def __call__(self, items: Iterable[Item]) -> Iterator[Item]:
        """Do the stage's work."""
        ...


# ---- the stages --------------------------------------------------------------------------------------------


class Download:
    """Brings videos into ``source.videos``, where the next stage finds them."""

    def __init__(self, config: PreprocessConfig) -> None:
        assert isinstance(config.source, MetadataSource)
        assert config.source.download is not None
        self._source = config.source
        self._downloader = make_downloader(config.source.download)
        self._blocked: ClipError | None = None

    def __call__(self, items: Iterable[Item]) -> Iterator[Item]:
        """Videos as they come in, or a failure for each clip of one that cannot be had."""
        for item in items:
            if not isinstance(item, Video):
                yield item
                continue
            try:
                if self._blocked is not None:  # don't knock again where we were sent away
                    raise self._blocked
                fetch(item.jobs[0].video_id, self._source, self._downloader)
            except Exception as error:
                if isinstance(error, ClipError) and error.code == FailureCode.BLOCKED:
                    self._blocked = error
                yield from (Failure.of(job.clip_id, error) for job in item.jobs)
            else:
                yield item


class Crop:
    """Videos to the pieces of their clips. Of a video that lies in an object store it makes a copy."""

    def __init__(self, config: PreprocessConfig) -> None:
        self._config = config
        self._downloader: Downloader | None = None

    def __call__(self, items: Iterable[Item]) -> Iterator[Item]:
        """The pieces of each clip in order; a failure ends those of its clip."""
        for item in items:
            if isinstance(item, Video):
                yield from self._crop(item)
            else:
                yield item

    def _crop(self, video: Video) -> Iterator[Item]:
        done = 0
        try:
            with self._local(video) as path:
                for job in video.jobs:
                    yield from self._clip(replace(job, video=str(path)))
                    done += 1
        except Exception as error:  # of the whole video
            yield from (Failure.of(job.clip_id, error) for job in video.jobs[done:])

    def _clip(self, job: ClipJob) -> Iterator[Item]:
        try:
            yield from crop_clip(job, self._config)
        except Exception as error:
            yield Failure.of(job.clip_id, error)

    def _local(self, video: Video) -> AbstractContextManager[Path]:
        job, source = video.jobs[0], self._config.source
        if not isinstance(source, MetadataSource) or source.download is None:
            return local_copy(job.video, _sidecars(name_of(job.video)))
        # It was downloaded already, unless this task is tried again after it has deleted the video.
        self._downloader = self._downloader or make_downloader(source.download)
        return downloaded(job.video_id, source, self._downloader, keep=video.more)


def _sidecars(video: str) -> list[str]:
    """Names of sidecars of a video of this name, or of a folder of images, which has no suffix."""
    return [*sidecar_names(PurePath(video).stem), *sidecar_names(video)]


class FindLandmarks:
    """Finds the landmarks of stored frames, in batches across clips. Keeps the networks loaded."""

    def __init__(self, config: PreprocessConfig) -> None:
        self._batch = config.stages.landmarks.batch
        self._pieces_at_once = max(4, 4 * self._batch // config.piece_frames)
        self._detector = make_detector(config)

    def __call__(self, items: Iterable[Item]) -> Iterator[Item]:
        """Pieces with landmarks; a failure in place of a piece that the networks cannot handle."""
        waiting: list[Piece] = []
        for item in items:
            if not isinstance(item, Piece):
                yield item
                continue
            waiting.append(item)
            if len(waiting) == self._pieces_at_once:
                yield from self._find(waiting)
                waiting = []
        yield from self._find(waiting)

    def _find(self, pieces: Sequence[Piece]) -> Iterator[Item]:
        if not pieces:
            return
        try:
            yield from add_landmarks(pieces, self._detector, self._batch)
        except Exception as error:
            if len(pieces) == 1:
                yield Failure.of(pieces[0].record.clip_id, error)
                return
            for piece in pieces:  # one of them is at fault
                yield from self._find([piece])


def make_detector(config: PreprocessConfig) -> LandmarkDetector:
    """Load the networks that find landmarks."""
    assert isinstance(config.landmarks, FaceAlignmentLandmarks | DlibLandmarksConfig)
    return load_landmark_detector(config.landmarks)


class Write:
    """Writes pieces into shards. A shard is closed when it is large or old, and at the end of the items.

    What is in a closed shard is there, so a worker that dies loses the shard at work. ``name`` is the same in
    every attempt at the same items: what a former attempt has stored is not written again.
    """

    def __init__(self, config: PreprocessConfig, name: str) -> None:
        self._folder, self._name = join(config.out, CLIPS), name

    def __call__(self, items: Iterable[Item]) -> Iterator[Item]:
        """What was stored, once its shard is closed."""
        remaining = iter(items)
        item = next(remaining, None)
        number = len(stored_before(self._folder, self._name))
        while item is not None:
            outcomes: list[Item] = []
            opened = time.monotonic()
            with ShardWriter(self._folder, part_name(self._name, number)) as shard:
                while item is not None and not _is_full(shard, opened):
                    outcomes.append(_written(item, shard))
                    item = next(remaining, None)
            number += 1
            yield from outcomes


def _written(item: Item, shard: ShardWriter) -> Item:
    if not isinstance(item, Piece):
        return item
    write_piece(shard, item)
    return Stored(item.record.clip_id, item.number, len(item.images), item.last)


def _is_full(shard: ShardWriter, opened: float) -> bool:
    return shard.n_bytes > MAX_SHARD_BYTES or time.monotonic() - opened > MAX_SHARD_SECONDS


def part_name(block: str, number: int) -> str:
    """The name of the index file of a block's shard, the same in every attempt at the block."""
    return hashlib.sha256(f"{block}/{number}".encode()).hexdigest()[:32]


def stored_before(folder: Location, block: str) -> list[list[Stored]]:
    """What earlier attempts at a block have stored, for each of its shards."""
    shards: list[list[Stored]] = []
    columns = ("clip_id", "first_piece", "n_frames", "has_last")
    while exists(where := join(folder, INDEX, f"{part_name(block, len(shards))}.arrow")):
        with local_file(where) as path:
            index = read_index_file(path)
            rows = zip(*(index[name].to_pylist() for name in columns), strict=True)
            shards.append([Stored(*row) for row in rows])
    return shards


# ---- in one process ----------------------------------------------------------------------------------------


class StageRunner:
    """Runs neighbouring stages on a block of rows, one after the other in this process, for Ray Data.

    Networks are loaded with the first block. Where a worker died at a block, its clips are handled one by
    one; a clip at which workers died again and again becomes a failure. What former attempts at the block
    have stored is not made again.

    Args:
        names: of the stages, in order: a run of ``STAGES``.
        clock: counts the clips that each stage has done, and its time.
    """

    def __init__(
        self, config: PreprocessConfig, names: Sequence[str], clock: StageClock | None = None
    ) -> None:
        self._config, self._names, self._clock = config, tuple(names), clock
        self._attempts = Attempts(config.out)
        self._loaded: dict[str, ClipStage] = {}

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """A table of the first stage's input to tables of the last one's output."""
        yield from tables_of(self._items(items_of(block)))
        if self._clock is not None:
            self._clock.send()

    def _items(self, items: Sequence[Item]) -> Iterator[Item]:
        yield from (item for item in items if not isinstance(item, Video | Piece))
        work = [item for item in items if isinstance(item, Video | Piece)]
        singles = [single for item in work for single in _singles(item)]
        if len(singles) < 2:
            for single in singles:
                yield from self._alone(single)
            return
        name = self._name(work)
        with self._attempts.mark(name) as deaths:
            stored, left = self._skip(work, name)
            yield from stored
            if deaths == 0:
                yield from self._run(left, name)
            else:
                for item in left:
                    for single in _singles(item):
                        yield from self._alone(single)

    def _alone(self, item: Video | Piece) -> Iterator[Item]:
        name = self._name([item])
        with self._attempts.mark(name) as deaths:
            stored, left = self._skip([item], name)
            yield from stored
            try:
                self._attempts.give_up_after(deaths)
            except ClipError as error:
                yield from (Failure.of(clip_id, error) for each in left for clip_id in _clips(each))
                return
            yield from self._run(left, name)

    def _run(self, items: Sequence[Item], name: str) -> Iterator[Item]:
        stream: Iterable[Item] = items
        for stage in self._names:
            stream = self._watched(stage, self._stage(stage, name), stream)
        yield from stream

    def _watched(self, name: str, stage: ClipStage, items: Iterable[Item]) -> Iterable[Item]:
        return stage(items) if self._clock is None else _clocked(self._clock, name, stage, items)

    def _stage(self, stage: str, name: str) -> ClipStage:
        if stage == WRITE:
            return Write(self._config, name)
        if stage not in self._loaded:
            self._loaded[stage] = _MAKERS[stage](self._config)
        return self._loaded[stage]

    def _name(self, items: Sequence[Video | Piece]) -> str:
        """Of a block: the same in every attempt at it."""
        pieces = [item.number if isinstance(item, Piece) else -1 for item in items]
        clips = [clip_id for item in items for clip_id in _clips(item)]
        return f"{self._names[0]}/{json.dumps([clips, pieces])}"

    def _skip(self, items: Sequence[Video | Piece], name: str) -> tuple[list[Stored], list[Video | Piece]]:
        """What former attempts have stored, and what is left to do."""
        if self._names[-1] != WRITE:
            return [], list(items)
        there = stored_before(join(self._config.out, CLIPS), name)
        if not there:
            return [], list(items)
        pieces = {(row.clip_id, row.number): row for rows in there for row in rows}
        whole = _complete(pieces.values())
        left: list[Video | Piece] = []
        stored: list[Stored] = []
        for item in items:
            if isinstance(item, Video):
                stored += [row for row in pieces.values() if row.clip_id in whole & set(_clips(item))]
                jobs = tuple(job for job in item.jobs if job.clip_id not in whole)
                left += [replace(item, jobs=jobs)] if jobs else []
            elif (row := pieces.get((item.record.clip_id, item.number))) is not None:
                stored.append(row)
            else:
                left.append(item)
        return stored, left


def _clocked(clock: StageClock, name: str, stage: ClipStage, items: Iterable[Item]) -> Iterator[Item]:
    """What a stage makes of items; its own time, without that of the stages before it, goes to the clock."""
    upstream = 0.0  # seconds

    def timed(iterator: Iterator[Item]) -> Iterator[Item]:
        nonlocal upstream
        while True:
            began = time.monotonic()
            item = next(iterator, None)
            upstream += time.monotonic() - began
            if item is None:
                return
            yield item

    made = stage(timed(iter(items)))
    while True:
        began, before = time.monotonic(), upstream
        item = next(made, None)
        spent = time.monotonic() - began - (upstream - before)
        clock.count(name, 0 if item is None else _ended(item), spent)
        if item is None:
            return
        yield item


def _ended(item: Item) -> int:
    """How many clips a stage has done with once it has made this item."""
    if isinstance(item, Video):
        return len(item.jobs)
    return 1 if isinstance(item, Failure) else int(item.last)


_MAKERS: dict[str, Callable[[PreprocessConfig], ClipStage]] = {
    DOWNLOAD: Download,
    CROP: Crop,
    LANDMARKS: FindLandmarks,
}


def _clips(item: Video | Piece) -> list[str]:
    return [job.clip_id for job in item.jobs] if isinstance(item, Video) else [item.record.clip_id]


def _singles(item: Video | Piece) -> list[Video | Piece]:
    """The item clip by clip."""
    if not isinstance(item, Video):
        return [item]
    last = len(item.jobs) - 1
    return [replace(item, jobs=(job,), more=number < last) for number, job in enumerate(item.jobs)]


def _complete(pieces: Iterable[Stored]) -> set[str]:
    """The clips of which all pieces are there."""
    numbers: dict[str, list[int]] = {}
    ends: dict[str, int] = {}
    for piece in pieces:
        numbers.setdefault(piece.clip_id, []).append(piece.number)
        if piece.last:
            ends[piece.clip_id] = piece.number
    return {clip for clip, end in ends.items() if sorted(numbers[clip]) == list(range(end + 1))}


# ---- rows --------------------------------------------------------------------------------------------------

# An item as a row; fields of other kinds of items are null.
ITEM_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("jobs", pa.list_(pa.string())),  # of a video
        ("more", pa.bool_()),
        ("record", pa.string()),  # of a piece
        ("number", pa.int32()),
        ("first", pa.int32()),
        ("images", pa.list_(pa.binary())),
        ("points", pa.binary()),  # float32 (T, 68, 2)
        ("scores", pa.binary()),  # float32 (T,)
        ("last", pa.bool_()),  # of a piece, and of one that is stored
        ("n_frames", pa.int64()),  # of a piece that is stored
        ("code", pa.string()),  # of a failure
        ("detail", pa.string()),
    ]
)
ROWS_AT_ONCE = 256  # of small items in a table


def tables_of(items: Iterable[Item]) -> Iterator[pa.Table]:
    """Items as tables: each piece as soon as it is there, other items many at once."""
    rows: list[dict[str, Any]] = []
    for item in items:
        rows.append(_row(item))
        if isinstance(item, Piece) or len(rows) == ROWS_AT_ONCE:
            yield pa.Table.from_pylist(rows, schema=ITEM_SCHEMA)
            rows = []
    if rows:
        yield pa.Table.from_pylist(rows, schema=ITEM_SCHEMA)


def items_of(table: pa.Table) -> list[Item]:
    """What ``tables_of`` made a table of."""
    return [_item(row) for row in table.to_pylist()]


def _row(item: Item) -> dict[str, Any]:
    if isinstance(item, Video):
        return {
            "id": item.jobs[0].clip_id,
            "jobs": [job.to_json() for job in item.jobs],
            "more": item.more,
        }
    if isinstance(item, Failure):
        return {"id": item.name, "code": str(item.code), "detail": item.detail}
    if isinstance(item, Stored):
        return {
            "id": item.clip_id,
            "number": item.number,
            "n_frames": item.n_frames,
            "last": item.last,
        }
    row = {
        "id": item.record.clip_id,
        "record": json.dumps(asdict(item.record)),
        "number": item.number,
        "first": item.first,
        "images": list(item.images),
        "last": item.last,
    }
    if item.landmarks is not None:
        row |= {"points": item.landmarks.points.tobytes(), "scores": item.landmarks.scores.tobytes()}
    return row


def _item(row: Mapping[str, Any]) -> Item:
    if row["code"]:
        return Failure(row["id"], FailureCode(row["code"]), row["detail"])
    if row["jobs"] is not None:
        return Video(tuple(map(ClipJob.from_json, row["jobs"])), row["more"])
    if row["images"] is None:
        return Stored(row["id"], row["number"], row["n_frames"], row["last"])
    record = json.loads(row["record"])
    record = ClipRecord(**record | {"bbox": tuple(record["bbox"])})
    landmarks = None
    if row["points"] is not None:
        flat = np.frombuffer(row["points"], np.float32)
        points = flat.reshape(-1, NUM_LANDMARKS, 2)  # (T * 136,) -> (T, 68, 2)
        landmarks = Landmarks(points, np.frombuffer(row["scores"], np.float32))
    return Piece(record, row["number"], row["first"], tuple(row["images"]), row["last"], landmarks)
