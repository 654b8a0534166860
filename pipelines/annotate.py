"""A later pass over a data set: one more column for frames that are stored already, without cropping again.

Run it as ``python -m pipelines.annotate --config configs/annotate.yaml``.

Writes into ``columns/NAME/`` of the data set, and nowhere else:
    parts/*.parquet, index/*.arrow, column.json    the column (safa/data/columns.py; docs/data.md)
    failures.parquet                               one row for each clip that this run could not annotate
    manifest.json, config.yaml                     settings, versions, counts
A run that is stopped loses only the clips in progress: the next one makes what is missing, and tries failures
again. A training reads a column of landmarks with ``data.landmarks: NAME``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from pipelines.launch import launch, ray_session
from pipelines.lease import exclusive
from pipelines.machines import room_for
from pipelines.operators import OPEN, Operator, applied, needs, with_room
from pipelines.quarantine import counts_line, quarantine_row, write_quarantine
from pipelines.run_folder import check_counts, check_settings, lock_settings, refuse_nothing, write_manifest
from pipelines.shared_folder import Probe, shared
from pipelines.worker_deaths import Attempts, forget_attempts
from safa.batching import batched
from safa.config.annotate import AnnotateConfig
from safa.data.annotators import Annotator, make_annotator
from safa.data.clip_store import ClipStore
from safa.data.columns import (
    INDEX,
    PARTS,
    Values,
    annotated_clips,
    column_folder,
    commit_column,
    write_part,
)
from safa.data.images import decode_image
from safa.errors import ClipError, Failure, FailureCode, UserError
from safa.files import exists, join, remove_leftovers, shown
from safa.messages import LogLines, Progress, count

log = logging.getLogger(__name__)

STAGE = "annotate"
NOT_HASHED = frozenset({"stage", "max_unexpected"})  # may change between two runs into one column
# Where it asks for more than there is.
LESS = "Ask for less there (on CPUs alone: gpus: 0, and the device: cpu), or run on larger machines."
FRAMES_PER_BLOCK = 4096  # about, of a task: what a worker that dies can lose
OUTCOME = pa.schema(
    [("id", pa.string()), ("n_frames", pa.int64()), ("code", pa.string()), ("detail", pa.string())]
)


def annotate(config: AnnotateConfig) -> dict[str, int]:
    """Compute the column for every clip that lacks it. Returns counts: in, ok, quarantined, pending.

    Raises:
        UserError: no data set, weights that are missing, a column of other settings, or too many failures.
    """
    began = time.monotonic()
    store = ClipStore(config.clips)
    make_annotator(config)  # report here, once, what would fail on every worker
    folder = column_folder(config.clips, config.name)
    with exclusive(folder):
        lock_settings(folder, config, NOT_HASHED)
        for each in (PARTS, INDEX):
            if exists(join(folder, each)):
                remove_leftovers(join(folder, each))
        forget_attempts(folder)
        ids = store.column("clip_id").to_pylist()
        done = annotated_clips(folder)
        missing = [name for name in ids if name not in done]
        log.info("annotate: %d clips, %d still to do, into %s", len(ids), len(missing), shown(folder))
        failures: dict[str, Failure] = {}
        if missing:
            room = room_for(*needs("annotation", [_operator(config)], LESS))
            with ray_session(), room, shared(folder) as probe:
                for failure in _run(config, store, missing, probe):
                    failures[failure.name] = failure
            forget_attempts(folder)
        commit_column(folder, config.column.kind)
        done = annotated_clips(folder) & set(ids)
        refused = [failure for name, failure in failures.items() if name not in done]
        write_quarantine(join(folder, "failures.parquet"), [*map(quarantine_row, refused)])
        pending = len(set(ids) - done - {failure.name for failure in refused})
        counts = {"in": len(ids), "ok": len(done), "quarantined": len(refused), "pending": pending}
        write_manifest(folder, config, counts, time.monotonic() - began)
        reasons = Counter(str(failure.code) for failure in refused)
        log.info("annotate: %s", counts_line(counts, reasons))
        check_counts(counts, folder)
        unexpected = reasons[FailureCode.UNEXPECTED]
        if unexpected > config.max_unexpected * len(ids):
            raise UserError(
                f"{unexpected} of {len(ids)} clips failed unexpectedly",
                shown(join(folder, "failures.parquet")),
                "Read the details there; the next run tries them again.",
            )
        refuse_nothing(counts, folder, [(str(failure.code), failure.detail) for failure in refused])
        return counts


def check(config: AnnotateConfig) -> str:
    """Look at settings and inputs, without Ray and without writing. Returns what was seen.

    Raises:
        UserError: as ``annotate``, as far as that can be seen before any work.
    """
    store = ClipStore(config.clips)
    make_annotator(config)
    folder = column_folder(config.clips, config.name)
    check_settings(folder, config, NOT_HASHED)
    done = annotated_clips(folder) if exists(folder) else frozenset()
    return f"{count(len(store.column('clip_id')), 'clip')}, {len(done)} of them annotated"


def _operator(config: AnnotateConfig) -> Operator:
    stage = config.stage
    return Operator((STAGE,), "stage", stage.cpus, stage.gpus, stage.actors or OPEN)


def _run(config: AnnotateConfig, store: ClipStore, ids: Sequence[str], probe: Probe) -> Iterator[Failure]:
    """Annotate these clips on Ray; yield failures as they come, and log the progress."""
    blocks = [pa.table({"id": part}) for part in _blocks(store, ids)]
    (operator,) = with_room(STAGE, [_operator(config)], len(blocks))
    rows = ray.data.from_arrow(blocks)
    outcomes = applied(operator, rows, ((probe,), ColumnMaker, config.with_absolute_paths()))
    progress = Progress(LogLines(STAGE), len(ids), "clips")
    for table in outcomes.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in table.to_pylist():
            if row["code"]:
                failure = Failure(row["id"], FailureCode(row["code"]), row["detail"], STAGE)
                log.warning("annotate: %s (%s): %s", failure.name, failure.code, failure.detail)
                yield failure
            progress.add(1, row["n_frames"])


def _blocks(store: ClipStore, ids: Sequence[str]) -> Iterator[list[str]]:
    """The clips in blocks of about as many frames."""
    block: list[str] = []
    frames = 0
    for name in ids:
        block.append(name)
        frames += store.n_frames(store.number(name))
        if frames >= FRAMES_PER_BLOCK:
            yield block
            block, frames = [], 0
    if block:
        yield block


class ColumnMaker:
    """An actor that keeps the networks loaded, and writes the column of blocks of clips."""

    def __init__(self, config: AnnotateConfig) -> None:
        self._config = config
        self._folder = column_folder(config.clips, config.name)
        self._store = ClipStore(config.clips)
        self._annotator: Annotator = make_annotator(config)
        self._attempts = Attempts(self._folder)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Rows ``{id}`` to ``OUTCOME``."""
        return pa.Table.from_pylist(list(self._outcomes(block["id"].to_pylist())), schema=OUTCOME)

    def _outcomes(self, ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        if len(ids) == 1:
            yield self._alone(ids[0])
            return
        with self._attempts.mark(_part_name(ids)) as deaths:
            if deaths == 0:
                try:
                    self._write(ids)
                    yield from map(self._ok, ids)
                    return
                except Exception as error:  # of one of them
                    log.warning("annotate: %s; its clips are tried one by one", type(error).__name__)
            for name in ids:
                yield self._alone(name)

    def _alone(self, name: str) -> dict[str, Any]:
        with self._attempts.mark(name) as deaths:
            try:
                self._attempts.give_up_after(deaths)
                self._write([name])
            except Exception as error:
                failure = Failure.of(name, _as_clip_error(error))
                return {"id": name, "n_frames": 0, "code": str(failure.code), "detail": failure.detail}
        return self._ok(name)

    def _ok(self, name: str) -> dict[str, Any]:
        return {"id": name, "n_frames": self._store.info(name).n_frames, "code": "", "detail": ""}

    def _write(self, ids: Sequence[str]) -> None:
        """Write the column of these clips, unless a former attempt has."""
        part = _part_name(ids)
        if exists(join(self._folder, INDEX, f"{part}.arrow")):
            return
        numbers = [self._store.number(name) for name in ids]
        values = iter(self._pieces(numbers))
        clips = [
            (n, [next(values) for _ in self._store.pieces(number)])
            for n, number in zip(ids, numbers, strict=True)
        ]
        write_part(self._folder, part, clips)

    def _pieces(self, numbers: Sequence[int]) -> Iterator[Values]:
        """The values of each piece of these clips, in order; batches hold frames of whatever clips."""
        found = [
            self._annotator(
                [decode_image(self._store.encoded_frames(number, [index])[0]) for number, index in batch],
                np.concatenate([self._store.landmarks(number, [index]) for number, index in batch]),
            )
            for batch in batched(
                ((number, index) for number in numbers for index in range(self._store.n_frames(number))),
                self._config.stage.batch,
            )
        ]
        joined = {name: np.concatenate([values[name] for values in found]) for name in found[0]}
        counts = [piece.count for number in numbers for piece in self._store.pieces(number)]
        for end, size in zip(accumulate(counts), counts, strict=True):
            yield {name: values[end - size : end] for name, values in joined.items()}


def _as_clip_error(error: Exception) -> Exception:
    """A frame that is damaged is the clip's fault, and no bug."""
    return ClipError(FailureCode.DECODE, str(error)) if isinstance(error, ValueError | OSError) else error


def _part_name(ids: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(ids)).encode()).hexdigest()[:32]


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m pipelines.annotate``."""

    def body(config: AnnotateConfig) -> None:
        annotate(config)

    return launch(STAGE, "Add a column to a data set.", AnnotateConfig, body, argv, check=check)


if __name__ == "__main__":
    sys.exit(main())
