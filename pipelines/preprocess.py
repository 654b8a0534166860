"""Videos to clips in Parquet: ``python -m pipelines.preprocess --config configs/preprocess.yaml``.

Writes into ``out``:
    clips/split=train|test/<clip id>.parquet   one clip, a row group for each piece
    quarantine/part-*.parquet                  one row for each clip that could not be made, with its reason
    summary.json                               in == ok + quarantined, and the reasons counted
Stopping at any point loses the clips at work and nothing else: the next run makes what is missing.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from pipelines.ops import ClipMaker
from pipelines.program import ray_session, run_program
from pipelines.runs import claim_folder, write_json, write_manifest
from safa.config.preprocess import PreprocessConfig
from safa.data.schema import QUARANTINE_SCHEMA, Code
from safa.data.sources import BadRow, ClipJob, list_jobs
from safa.errors import UserError

log = logging.getLogger(__name__)

STAGE = "preprocess"
# What may change between two runs into one folder.
PATIENCE = frozenset({"retry_quarantined", "max_unexpected", "cpus_per_task"})
BLOCKS_PER_CPU = (
    8  # small enough that the last ones end together, large enough to keep Ray's cost per task small
)
LOG_EVERY = 5.0  # seconds


@dataclass(frozen=True)
class Summary:
    """Counts over all runs into one folder; ``in`` is ``total`` here. ``reasons`` counts quarantine codes."""

    total: int
    ok: int
    quarantined: int
    reasons: dict[str, int]

    def __post_init__(self) -> None:
        assert self.total == self.ok + self.quarantined, "a clip was lost"

    def as_counts(self) -> dict[str, Any]:
        """With the keys that reports use: in, ok, quarantined, reasons."""
        return {"in": self.total, **{key: value for key, value in asdict(self).items() if key != "total"}}


def preprocess(config: PreprocessConfig) -> Summary:
    """Make every clip that is not there yet.

    Raises:
        UserError: nothing to read, a folder of other settings, or too many unexpected failures.
    """
    began = time.monotonic()
    listed = list_jobs(config.source)
    claim_folder(config.out, config, PATIENCE)
    attempts = _attempts_so_far(config)
    done = {path.stem for path in (config.out / "clips").glob("split=*/*.parquet")}
    jobs = [job for job in listed.jobs if job.clip_id not in done and job.clip_id not in attempts.refused]
    bad = [row for row in listed.bad_rows if row.name not in attempts.refused]
    total = len(listed.jobs) + len(listed.bad_rows)
    log.info("preprocess: %d clips in, %d still to make, into %s", total, len(jobs) + len(bad), config.out)
    quarantine = _Quarantine(config.out / "quarantine", attempts.counts)
    quarantine.add([_bad_row_status(row) for row in bad])
    if jobs:
        with ray_session():
            for finished in _process(config, jobs):
                quarantine.add([status for status in finished if status["code"]])
    summary = _summarise(config, {job.clip_id for job in listed.jobs}, total)
    counts = summary.as_counts()
    write_json(config.out / "summary.json", counts)
    write_manifest(config.out, config, counts, time.monotonic() - began)
    log.info("preprocess: in %d == ok %d + quarantined %d %s", *counts.values())
    unexpected = summary.reasons.get(Code.UNEXPECTED, 0)
    if unexpected > config.max_unexpected * total:
        raise UserError(
            f"{unexpected} of {total} clips failed unexpectedly",
            str(config.out / "quarantine"),
            "Read the details there; run again with --set retry_quarantined=true once the cause is mended.",
        )
    return summary


def _process(config: PreprocessConfig, jobs: Sequence[ClipJob]) -> Iterator[list[dict[str, Any]]]:
    """Statuses of clips as they are finished, with a line of progress now and then."""
    blocks = min(len(jobs), max(1, int(ray.cluster_resources().get("CPU", 1))) * BLOCKS_PER_CPU)
    rows = [{"job": job.to_json()} for job in jobs]
    made = ray.data.from_items(rows, override_num_blocks=blocks).map(
        ClipMaker(config), num_cpus=config.cpus_per_task
    )
    began = last = time.monotonic()
    count = frames = 0
    for batch in made.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        statuses = batch.to_pylist()
        count += len(statuses)
        frames += sum(status["n_frames"] for status in statuses)
        yield statuses
        now = time.monotonic()
        if now - last > LOG_EVERY or count == len(jobs):
            last = now
            rate = count / (now - began)
            log.info(
                "preprocess: %d/%d clips, %.0f frames/s, %.0f s to go",
                *(count, len(jobs), frames / (now - began), (len(jobs) - count) / rate),
            )


# ---- quarantine --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Attempts:
    """Of earlier runs: ids that stay refused, and how often each id was tried."""

    refused: frozenset[str]
    counts: dict[str, int]


def _attempts_so_far(config: PreprocessConfig) -> _Attempts:
    files = sorted((config.out / "quarantine").glob("part-*.parquet"))
    rows = [row for path in files for row in pq.read_table(path).to_pylist()]
    counts = {row["id"]: row["attempts"] for row in rows}
    if not config.retry_quarantined:
        return _Attempts(frozenset(counts), counts)
    for path in files:
        path.unlink()
    return _Attempts(frozenset(), counts)


class _Quarantine:
    """Appends rows in files of their own, each whole."""

    def __init__(self, folder: Path, attempts: dict[str, int]) -> None:
        self._folder, self._attempts = folder, attempts
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, statuses: Sequence[dict[str, Any]]) -> None:
        if not statuses:
            return
        now = datetime.now(UTC)
        rows = [
            {
                "id": status["id"],
                "stage": STAGE,
                "code": status["code"],
                "detail": status["detail"],
                "attempts": self._attempts.get(status["id"], 0) + 1,
                "time": now,
            }
            for status in statuses
        ]
        for row in rows:
            log.warning("preprocess: %s refused (%s): %s", row["id"], row["code"], row["detail"])
        path = self._folder / f"part-{now:%Y%m%dT%H%M%S%f}.parquet"
        part = path.with_name(f".{path.name}.part")
        pq.write_table(pa.Table.from_pylist(rows, schema=QUARANTINE_SCHEMA), part)
        part.replace(path)


def _bad_row_status(row: BadRow) -> dict[str, Any]:
    return {"id": row.name, "code": str(Code.BAD_ROW), "detail": row.detail, "n_frames": 0}


def _summarise(config: PreprocessConfig, clip_ids: set[str], total: int) -> Summary:
    """Counted from what is on disk, not from what this run believes."""
    ok = clip_ids & {path.stem for path in (config.out / "clips").glob("split=*/*.parquet")}
    codes: dict[str, str] = {}
    for path in sorted((config.out / "quarantine").glob("part-*.parquet")):
        codes |= {row["id"]: row["code"] for row in pq.read_table(path, columns=["id", "code"]).to_pylist()}
    refused = Counter(code for name, code in codes.items() if name not in ok)
    return Summary(total, len(ok), refused.total(), dict(refused))


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m pipelines.preprocess``."""

    def body(config: PreprocessConfig) -> None:
        preprocess(config)

    return run_program("preprocess", "Videos to clips in Parquet.", PreprocessConfig, body, argv)


if __name__ == "__main__":
    sys.exit(main())
