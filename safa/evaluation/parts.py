"""Parts: what workers leave of the windows that they have scored, and how clips are added up from them.

    frames/part-NAME.parquet      the scores of every frame
    features/part-NAME.parquet    Inception features, if there are any
    results/part-NAME.parquet     a row for each window, with sums of its scores; written last

A part counts once its file in ``results/`` is there. The driver reads one part at a time, and keeps two
arrays of numbers for each clip, whatever the length of the clips.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from safa.evaluation.frame_scores import CLIP_SCORES, FRAMES_SCHEMA, SCORES, clip_expression
from safa.evaluation.window_stages import ScoredWindow
from safa.evaluation.windows import Window
from safa.files import (
    Location,
    atomic_file,
    delete,
    entries,
    exists,
    is_uri,
    join,
    local_file,
    remove_leftovers,
)
from safa.metrics import ExpressionSums
from safa.metrics.frechet import FeatureSums, frechet_distance

log = logging.getLogger(__name__)

RESULTS, FRAMES, FEATURES = FOLDERS = ("results", "frames", "features")
EXPRESSION = len(ExpressionSums().state)
SUM, COUNT = "sum_", "n_"  # begin the names of columns
WINDOWS_AT_ONCE = 64  # of features
_WINDOW = [("number", pa.int64()), ("index", pa.int32()), ("first", pa.int32()), ("last", pa.int32())]
RESULTS_SCHEMA = pa.schema(
    [
        *_WINDOW,  # number of the job in the list of jobs, and frames of the window
        *((name, pa.string()) for name in ("mode", "source_id", "driving_id")),
        ("seconds", pa.float64()),  # of work
        *((SUM + score, pa.float64()) for score in SCORES),  # over the frames that count and have one
        *((COUNT + score, pa.int32()) for score in SCORES),
        ("expression", pa.list_(pa.float64(), EXPRESSION)),  # sums of movements, of ``ExpressionSums``
    ]
)
FEATURES_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("index", pa.int32()),
        *((name, pa.binary()) for name in ("prediction", "target", "source")),  # float32
    ]
)


# ---- written by workers ------------------------------------------------------------------------------------


def part_file(out: Location, kind: str, name: str) -> Location:
    """Where a part's file of this kind is."""
    return join(out, kind, f"part-{name}.parquet")


def write_part(out: Location, name: str, windows: Sequence[ScoredWindow]) -> None:
    """Write a part; it counts when the last of its files is there."""
    frames = [_frame_rows(window) for window in windows if window.scores is not None]
    if frames:
        _write(part_file(out, FRAMES, name), pa.concat_tables(frames))
    features = [_feature_row(window) for window in windows if window.features is not None]
    if features:
        _write(part_file(out, FEATURES, name), pa.Table.from_pylist(features, FEATURES_SCHEMA))
    _write(part_file(out, RESULTS, name), pa.Table.from_pylist([*map(_result_row, windows)], RESULTS_SCHEMA))


def _write(location: Location, table: pa.Table) -> None:
    with atomic_file(location) as temporary:
        pq.write_table(table, temporary)


def _frame_rows(done: ScoredWindow) -> pa.Table:
    window, scores = done.window, done.scores
    assert scores is not None
    columns: dict[str, Any] = {
        name: pa.array([value] * len(scores))
        for name, value in (
            ("mode", window.job.mode),
            ("clip_id", window.job.driving),
            ("source_id", window.job.source),
            ("person_id", done.person),
        )
    }
    columns["frame"] = np.arange(window.first, window.last, dtype=np.int32)
    columns |= {score: np.ascontiguousarray(scores[:, i]) for i, score in enumerate(SCORES)}
    return pa.table(columns, schema=FRAMES_SCHEMA)


def _feature_row(done: ScoredWindow) -> dict[str, Any]:
    features = done.features
    assert features is not None
    return {
        "number": done.window.number,
        "index": done.window.index,
        "prediction": features.prediction.tobytes(),
        "target": features.target.tobytes(),
        "source": features.source.tobytes(),
    }


def _result_row(done: ScoredWindow) -> dict[str, Any]:
    window = done.window
    # The first frame of a reconstruction is the source: it counts in no mean.
    start = int(window.first == 0 and window.job.mode == "reconstruction")
    counted = np.empty((0, len(SCORES))) if done.scores is None else done.scores[start:]
    known = np.isfinite(counted)
    sums, counts = np.where(known, counted, 0.0).sum(axis=0).tolist(), known.sum(axis=0).tolist()
    return {
        **{name: getattr(window, name) for name in ("number", "index", "first", "last")},
        "mode": window.job.mode,
        "source_id": window.job.source,
        "driving_id": window.job.driving,
        "seconds": done.seconds,
        **{SUM + score: value for score, value in zip(SCORES, sums, strict=True)},
        **{COUNT + score: value for score, value in zip(SCORES, counts, strict=True)},
        "expression": (np.zeros(EXPRESSION) if done.expression is None else done.expression).tolist(),
    }


def windows_in(out: Location, name: str) -> frozenset[tuple[int, int]] | None:
    """(number of the job, index) of the windows in a part; None if it is not there."""
    where = part_file(out, RESULTS, name)
    if not exists(where):
        return None
    with local_file(where) as path:
        rows = pq.read_table(path, columns=["number", "index"])
    return frozenset(zip(rows["number"].to_pylist(), rows["index"].to_pylist(), strict=True))


# ---- added up by the driver --------------------------------------------------------------------------------


@dataclass
class Totals:
    """What the parts say of each job: J jobs in their order.

    Attributes:
        sums, counts: (J, len(SCORES)), over frames.
        expression: (J, EXPRESSION), sums of movements.
        seconds: (J,), of work.
        windows: (J + 1,), where each job's windows begin in ``seen``.
        seen: which windows of all jobs are there.
    """

    sums: NDArray[np.float64]
    counts: NDArray[np.int64]
    expression: NDArray[np.float64]
    seconds: NDArray[np.float64]
    windows: NDArray[np.int64]
    seen: NDArray[np.bool_]

    def has(self, window: Window) -> bool:
        """Whether a window is there."""
        return bool(self.seen[self.windows[window.number] + window.index])

    @property
    def complete(self) -> NDArray[np.bool_]:
        """(J,): all windows of the job are there."""
        there = np.add.reduceat(self.seen, self.windows[:-1], dtype=np.int64) if len(self.seen) else self.seen
        return np.asarray(there == np.diff(self.windows))

    def means(self) -> NDArray[np.float64]:
        """(J, len(CLIP_SCORES)): means over frames (``clip_score``), and scores of whole clips; or NaN."""
        with np.errstate(invalid="ignore", divide="ignore"):
            means = np.where(self.counts > 0, self.sums / self.counts, math.nan)
        table = np.full((len(means), len(CLIP_SCORES)), math.nan)
        table[:, [CLIP_SCORES.index(score) for score in SCORES]] = means
        for number in np.flatnonzero(self.expression[:, 0]).tolist():
            for score, value in clip_expression(self.expression[number]).items():
                table[number, CLIP_SCORES.index(score)] = value
        return table


def add_up(out: Location, n_frames: NDArray[np.int64], length: int, failed: Set[int] = frozenset()) -> Totals:
    """Add up all parts, and delete from them what does not count.

    That is what a killed run left half done, parts that are damaged, windows that are there twice, windows of
    another length, and those of jobs that failed.

    Args:
        n_frames: (J,) of each job.
        length: of windows, frames.
        failed: numbers of the jobs that failed.
    """
    jobs = len(n_frames)
    windows = np.concatenate([[0], np.cumsum(-(-n_frames // length))])
    totals = Totals(
        np.zeros((jobs, len(SCORES))),
        np.zeros((jobs, len(SCORES)), np.int64),
        np.zeros((jobs, EXPRESSION)),
        np.zeros(jobs),
        windows,
        np.zeros(int(windows[-1]), np.bool_),
    )
    refused = np.zeros(jobs, np.bool_)
    refused[list(failed)] = True
    for name in _part_names(out):
        rows = _results(out, name)
        if rows is None:
            _forget(out, name)
            continue
        keep = _counting(rows, totals, n_frames, length, refused)
        if not keep.all():
            rows = _keep(out, name, rows, keep)
        _add(rows, totals)
    return totals


def _part_names(out: Location) -> list[str]:
    """Names of the parts, sorted; files of parts that do not count are deleted."""
    found: dict[str, set[str]] = {}
    for kind in FOLDERS:
        folder = join(out, kind)
        remove_leftovers(folder)
        files = entries(folder) if exists(folder) else ()
        found[kind] = {entry.stem.removeprefix("part-") for entry in files if entry.suffix == ".parquet"}
    for kind in (FRAMES, FEATURES):
        for name in found[kind] - found[RESULTS]:
            delete(part_file(out, kind, name))
    return sorted(found[RESULTS])


def _results(out: Location, name: str) -> pa.Table | None:
    """The rows of a part; None if one of its files is damaged.

    Of frames and features only the ends are looked at, and only on a disk: a store keeps checksums itself.
    """
    try:
        for kind in (FRAMES, FEATURES):
            where = part_file(out, kind, name)
            if not is_uri(where) and exists(where):
                pq.read_metadata(where)
        with local_file(part_file(out, RESULTS, name)) as path:
            return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        if getattr(error, "errno", None):  # the disk's fault, not the file's
            raise
        reason = str(error).partition("\n")[0]
        log.warning("part %s of the results is damaged (%s); its windows are done again", name, reason)
        return None


def _forget(out: Location, name: str) -> None:
    """Delete a part; the file that makes it count goes first."""
    for kind in FOLDERS:
        delete(part_file(out, kind, name))


def _counting(
    rows: pa.Table, totals: Totals, n_frames: NDArray[np.int64], length: int, refused: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which rows of a part count; their windows are seen from now on."""
    number, index, first, last = (rows[name].to_numpy() for name, _ in _WINDOW)
    index = index.astype(np.int64)
    of_this_length = (first == index * length) & (last == np.minimum((index + 1) * length, n_frames[number]))
    keep = of_this_length & ~refused[number]
    place = np.where(keep, totals.windows[number] + index, 0)
    keep &= ~totals.seen[place]
    totals.seen[place[keep]] = True
    return np.asarray(keep)


def _add(rows: pa.Table, totals: Totals) -> None:
    number = rows["number"].to_numpy()
    sums = np.stack([rows[SUM + score].to_numpy() for score in SCORES], axis=1)
    counts = np.stack([rows[COUNT + score].to_numpy() for score in SCORES], axis=1)
    np.add.at(totals.sums, number, sums)
    np.add.at(totals.counts, number, counts)
    np.add.at(totals.seconds, number, rows["seconds"].to_numpy())
    flat = rows["expression"].combine_chunks().flatten().to_numpy()
    np.add.at(totals.expression, number, flat.reshape(-1, EXPRESSION))  # (R * 16,) -> (R, 16)


def _keep(out: Location, name: str, rows: pa.Table, keep: NDArray[np.bool_]) -> pa.Table:
    """Rewrite a part with some of its windows; the file that makes it count goes first, and comes last."""
    kept = rows.filter(pa.array(keep))
    delete(part_file(out, RESULTS, name))
    if not len(kept):
        _forget(out, name)
        return kept
    windows = {
        (mode, source, driving, first): (number, index, last)
        for mode, source, driving, first, number, index, last in zip(
            *(kept[name].to_pylist() for name in ("mode", "source_id", "driving_id", "first")),
            *(kept[name].to_pylist() for name in ("number", "index", "last")),
            strict=True,
        )
    }
    spans: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for (mode, source, driving, first), (_, _, last) in windows.items():
        spans.setdefault((mode, source, driving), []).append((first, last))
    ids = {(number, index) for number, index, _ in windows.values()}

    def frame_counts(mode: str, source: str, driving: str, frame: int) -> bool:
        return any(first <= frame < last for first, last in spans.get((mode, source, driving), ()))

    _filter(part_file(out, FRAMES, name), ("mode", "source_id", "clip_id", "frame"), frame_counts)
    _filter(part_file(out, FEATURES, name), ("number", "index"), lambda *window: window in ids)
    _write(part_file(out, RESULTS, name), kept)
    return kept


def _filter(location: Location, keys: Sequence[str], counts: Callable[..., bool]) -> None:
    """Leave in a file the rows that count, by some of their columns."""
    if not exists(location):
        return
    with local_file(location) as path:
        table = pq.read_table(path)
    values = zip(*(table[key].to_pylist() for key in keys), strict=True)
    _write(location, table.filter(pa.array([counts(*row) for row in values], pa.bool_())))


# ---- Fréchet distance --------------------------------------------------------------------------------------


def fid_of_parts(out: Location) -> tuple[float, float]:
    """The FID of all predictions, and of copying the sources; NaN without features.

    Parts are read one at a time; their sums are those of the whole.
    """
    folder = join(out, FEATURES)
    found = sorted(entry.name for entry in entries(folder)) if exists(folder) else []
    sums: tuple[FeatureSums, FeatureSums, FeatureSums] | None = None
    for name in found:
        with local_file(join(folder, name)) as path:
            for batch in pq.ParquetFile(path).iter_batches(WINDOWS_AT_ONCE):
                for row in batch.to_pylist():
                    sums = _add_features(row, sums)
    if sums is None:
        return math.nan, math.nan
    prediction, target, copied = sums
    return frechet_distance(prediction, target), frechet_distance(copied, target)


def _add_features(
    row: Mapping[str, bytes], sums: tuple[FeatureSums, FeatureSums, FeatureSums] | None
) -> tuple[FeatureSums, FeatureSums, FeatureSums]:
    source = np.frombuffer(row["source"], np.float32)[None]
    width = source.shape[1]
    prediction, target, copied = sums or (FeatureSums(width), FeatureSums(width), FeatureSums(width))
    for each, name in ((prediction, "prediction"), (target, "target")):
        each.add(np.frombuffer(row[name], np.float32).reshape(-1, width))  # (T * D,) -> (T, D)
    copied.add(source, times=len(row["target"]) // (4 * width))
    return prediction, target, copied
