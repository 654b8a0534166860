"""Videos to clips in Parquet: ``python -m pipelines.preprocess --config configs/preprocess.yaml``.

Writes into ``out``:
    clips/split=train|test/<clip id>.parquet   one clip, a row group for each piece
    quarantine/part-*.parquet                  one row for each input that is no clip, with its reason
    tubes/<video>.json                         what was found in raw videos without a list
    summary.json, summary.html                 in == ok + quarantined + pending; pictures to look at
Stopping at any point loses the clips at work and nothing else: the next run makes what is missing.
``pending`` is 0 unless the host of the videos blocked us. ``--plan`` tells what a run would take.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy, Dataset, TaskPoolStrategy

from pipelines.ops import ClipMaker, Status, TubeFinder
from pipelines.program import ray_session, run_program
from pipelines.quarantine import Quarantine
from pipelines.runs import claim_folder, write_json, write_manifest
from safa.config.preprocess import FaceAlignmentLandmarks, MetadataSource, PreprocessConfig, VideosSource
from safa.data.clip_facts import gather
from safa.data.fetch import make_fetcher
from safa.data.places import absolute
from safa.data.plan import plan_of
from safa.data.schema import Code
from safa.data.sources import BadRow, ClipJob, Listing, list_jobs, place_of
from safa.data.tube_finder import list_tubes, raw_videos, tubes_file
from safa.errors import UserError
from safa.report.clips import write_page

log = logging.getLogger(__name__)

STAGE = "preprocess"
TUBES = "tubes"  # folder
# What may change between two runs into one folder: none of it changes a stored row.
PATIENCE = frozenset(
    {"retry_quarantined", "max_unexpected", "cpus_per_task", "gpus_per_task", "actors", "mix_settings"}
)
BLOCKS_PER_CPU = 8  # small enough that the last ones end together
ROWS_PER_BLOCK = 8  # and that progress is seen, and little is lost, on long lists
MOST_BLOCKS = 4096
LOG_EVERY = 5.0  # seconds


@dataclass(frozen=True)
class Summary:
    """Counts over all runs into one folder; ``reasons`` counts quarantine codes.

    ``pending`` inputs have not been tried: the run was stopped because the host of the videos blocked us.
    """

    total: int
    ok: int
    quarantined: int
    pending: int
    reasons: dict[str, int]

    def __post_init__(self) -> None:
        assert self.total == self.ok + self.quarantined + self.pending, "a clip was lost"

    def as_counts(self) -> dict[str, Any]:
        """With the keys that reports use: in, ok, quarantined, pending, reasons."""
        counts = {"in": self.total, "ok": self.ok, "quarantined": self.quarantined}
        return {**counts, "pending": self.pending, "reasons": self.reasons}


def preprocess(config: PreprocessConfig) -> Summary:
    """Make every clip that is not there yet.

    Raises:
        UserError: nothing to read, weights or packages missing, a folder of other settings, a host that
            blocks us, or too many unexpected failures.
    """
    began = time.monotonic()
    listed = list_inputs(config)
    _check(config)
    _claim(config)
    quarantine = Quarantine(config.out / "quarantine")
    settled = frozenset() if config.retry_quarantined else quarantine.final()
    blocked = ""
    with ExitStack() as stack:
        if isinstance(config.source, VideosSource):
            listed = _with_tubes(config, config.source, settled, quarantine, stack)
        done = _done(config)
        jobs = [job for job in listed.jobs if job.clip_id not in done and job.clip_id not in settled]
        bad = [row for row in listed.bad_rows if row.name not in settled | quarantine.fresh]
        total = len(listed.jobs) + len(listed.bad_rows)
        log.info(
            "preprocess: %d clips in, %d still to make, into %s", total, len(jobs) + len(bad), config.out
        )
        quarantine.add(STAGE, ((row.name, row.code, row.detail) for row in bad))
        if jobs:
            stack.enter_context(ray_session())
            blocked = _make(config, jobs, quarantine)
    summary = _summarise(config, listed, quarantine, time.monotonic() - began)
    _complain(config, summary, blocked)
    return summary


def list_inputs(config: PreprocessConfig) -> Listing:
    """What the source offers; of raw videos, only what earlier runs found in them.

    Raises:
        UserError: nothing to read.
    """
    if isinstance(config.source, VideosSource):
        videos, bad = raw_videos(config.source)
        found = list_tubes(config.source, videos, config.out / TUBES)
        return Listing(found.jobs, (*found.bad_rows, *bad))
    return list_jobs(config.source)


def _check(config: PreprocessConfig) -> None:
    """Whatever would fail on every worker fails here, once."""
    needed = [config.landmarks] if isinstance(config.landmarks, FaceAlignmentLandmarks) else []
    if needed or isinstance(config.source, VideosSource):
        from safa.data.faces import library

        for part in needed:
            library.check(part)
        if isinstance(config.source, VideosSource):
            library.check(config.source.detector)
    if isinstance(config.source, MetadataSource) and config.source.fetch is not None:
        make_fetcher(config.source.fetch)


def _claim(config: PreprocessConfig) -> None:
    """Refuse a folder of other settings, unless told to mix; how videos are fetched makes no difference."""
    source = config.source
    if isinstance(source, MetadataSource):
        source = source.model_copy(update={"fetch": None})
    if not (config.mix_settings and config.out.exists()):
        claim_folder(config.out, config.model_copy(update={"source": source}), PATIENCE)


def _done(config: PreprocessConfig) -> set[str]:
    """Ids of the clips that are there; names alone, since a million paths take seconds to build."""
    folders = (config.out / "clips").glob("split=*")
    names = (entry.name for folder in folders for entry in os.scandir(folder))
    return {name.removesuffix(".parquet") for name in names if name.endswith(".parquet")}


# ---- the work, on Ray --------------------------------------------------------------------------------------


def _with_tubes(
    config: PreprocessConfig,
    source: VideosSource,
    settled: Set[str],
    quarantine: Quarantine,
    stack: ExitStack,
) -> Listing:
    """Find the tubes of the videos that have none yet; then every clip is known."""
    videos, _ = raw_videos(source)
    folder = config.out / TUBES
    fresh = [v for v in videos if v.name not in settled and not tubes_file(folder, v.name).is_file()]
    if fresh:
        stack.enter_context(ray_session())
        _same_paths_everywhere(config)
        rows = _rows([{"video": absolute(video.where)} for video in fresh])
        given = (source, config.fps, folder.absolute())
        found = rows.map(TubeFinder, fn_constructor_args=given, **_actors(config))
        for statuses in _progress(found, len(fresh), "videos searched"):
            quarantine.add("detect", _refusals(statuses))
    listing = list_inputs(config)
    unread = [BadRow(row["id"], row["detail"], Code(row["code"])) for row in quarantine.rows(frozenset())]
    names = {video.name for video in videos if not tubes_file(folder, video.name).is_file()}
    return Listing(listing.jobs, (*listing.bad_rows, *(row for row in unread if row.name in names)))


def _make(config: PreprocessConfig, jobs: Sequence[ClipJob], quarantine: Quarantine) -> str:
    """Make clips; returns why the host of the videos blocks us, empty if it does not."""
    _same_paths_everywhere(config)
    for statuses in _progress(clip_statuses(config, jobs), len(jobs), "clips"):
        quarantine.add(STAGE, _refusals(s for s in statuses if s["code"] != Code.BLOCKED))
        blocked = next((s["detail"] for s in statuses if s["code"] == Code.BLOCKED), None)
        if blocked is not None:
            return str(blocked) or "no reason given"  # leaving the loop cancels what is at work
    return ""


def clip_statuses(
    config: PreprocessConfig, jobs: Sequence[ClipJob], maker: Callable[[PreprocessConfig], Any] = ClipMaker
) -> Dataset:
    """The lazy data set whose rows are the statuses of the clips.

    Networks stay loaded in actors; anything else runs as tasks.

    Args:
        maker: instead of ``ClipMaker``, for measuring.
    """
    source = config.source
    fetch = source.fetch if isinstance(source, MetadataSource) else None
    groups: dict[object, list[str]] = {}
    for number, job in enumerate(jobs):
        # One download serves all clips of its video; without one, clips need not wait for each other.
        groups.setdefault(job.video_id if fetch else number, []).append(job.to_json())
    rows = _rows([{"jobs": group} for group in groups.values()])
    if isinstance(config.landmarks, FaceAlignmentLandmarks):
        resources = _actors(config, fetch.parallel if fetch else None)
        return rows.flat_map(maker, fn_constructor_args=(config,), **resources)
    at_once = TaskPoolStrategy(size=fetch.parallel) if fetch else None
    return rows.flat_map(maker(config), num_cpus=config.cpus_per_task, compute=at_once)


def _rows(rows: list[dict[str, Any]]) -> Dataset:
    cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
    blocks = min(max(cpus * BLOCKS_PER_CPU, len(rows) // ROWS_PER_BLOCK), MOST_BLOCKS, len(rows))
    return ray.data.from_items(rows, override_num_blocks=blocks)


def _actors(config: PreprocessConfig, most: int | None = None) -> dict[str, Any]:
    size = min(config.actors, most or config.actors)
    resources = {"num_cpus": config.cpus_per_task, "num_gpus": config.gpus_per_task}
    return {"compute": ActorPoolStrategy(size=size), **resources}


def _same_paths_everywhere(config: PreprocessConfig) -> None:
    """A relative path is another folder on every node."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    places = (config.out, place_of(config.source))
    relative = [place for place in places if str(place) != absolute(place)]
    if len(alive) > 1 and relative:
        raise UserError(
            f"relative path on a cluster of {len(alive)} nodes",
            str(relative[0]),
            "Give one that all nodes share.",
        )


def _progress(made: Dataset, total: int, what: str) -> Iterator[list[Status]]:
    """Statuses as they are finished, with a line now and then."""
    began = last = time.monotonic()
    count = frames = 0
    for batch in made.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        statuses = batch.to_pylist()
        count += len(statuses)
        frames += sum(status["n_frames"] for status in statuses)
        yield statuses
        now = time.monotonic()
        if now - last > LOG_EVERY or count == total:
            last = now
            rate = count / (now - began)
            log.info(
                "preprocess: %d/%d %s, %.0f frames/s, %.0f s to go",
                *(count, total, what, frames / (now - began), (total - count) / rate),
            )


def _refusals(statuses: Iterable[Status]) -> list[tuple[str, str, str]]:
    return [(s["id"], s["code"], s["detail"]) for s in statuses if s["code"]]


# ---- what came of it ---------------------------------------------------------------------------------------


def _summarise(config: PreprocessConfig, listed: Listing, quarantine: Quarantine, seconds: float) -> Summary:
    """Counted from what is on disk, not from what this run believes."""
    done = _done(config)
    quarantine.settle(done)
    names = [job.clip_id for job in listed.jobs] + [row.name for row in listed.bad_rows]
    wanted = set(names)
    refused = [row for row in quarantine.rows(done) if row["id"] in wanted]
    ok = len(wanted & done)
    reasons = dict(Counter(row["code"] for row in refused))
    summary = Summary(len(names), ok, len(refused), len(names) - ok - len(refused), reasons)
    facts = gather(config, listed, {row["id"]: row["code"] for row in refused})
    write_json(config.out / "summary.json", {**summary.as_counts(), **facts.as_json()})
    write_page(config.out / "summary.html", facts, summary.as_counts())
    write_manifest(config.out, config, summary.as_counts(), seconds)
    log.info("preprocess: in %d == ok %d + quarantined %d + pending %d %s", *summary.as_counts().values())
    return summary


def _complain(config: PreprocessConfig, summary: Summary, blocked: str) -> None:
    if blocked:
        raise UserError(
            f"the host of the videos blocks us ({blocked}); {summary.pending} clips are still to make",
            str(config.out),
            "Run the same command again later, from another address, or with source.fetch.cookies.",
        )
    unexpected = summary.reasons.get(Code.UNEXPECTED, 0)
    if unexpected > config.max_unexpected * summary.total:
        raise UserError(
            f"{unexpected} of {summary.total} clips failed unexpectedly",
            str(config.out / "quarantine"),
            "Read the details there; run again with --set retry_quarantined=true once the cause is mended.",
        )


def plan(config: PreprocessConfig) -> None:
    """Tell what a run would take, without starting Ray or writing anything."""
    listed = list_inputs(config)
    done = _done(config)
    left = [job for job in listed.jobs if job.clip_id not in done]
    sys.stdout.write(plan_of(config, left, len(listed.bad_rows), len(done)).as_text() + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m pipelines.preprocess``."""

    def body(config: PreprocessConfig) -> None:
        preprocess(config)

    instead = {"--plan": ("tell clips, hours, bytes and core-hours of a run, without doing it", plan)}
    return run_program("preprocess", "Videos to clips in Parquet.", PreprocessConfig, body, argv, instead)


if __name__ == "__main__":
    sys.exit(main())
