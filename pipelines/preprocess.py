"""Videos to clips in Parquet: ``python -m pipelines.preprocess --config configs/preprocess.yaml``.

Writes into ``out``:
    clips/split=train|test/<clip id>.parquet   one clip, a row group for each piece
    quarantine/part-*.parquet                  one row for each input that is no clip, with its reason
    face_tracks/<video>.json                     what was found in raw videos without a list
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
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy, Dataset, TaskPoolStrategy

from pipelines.launch import launch, ray_session
from pipelines.quarantine import Quarantine
from pipelines.run_folder import lock_settings, write_manifest
from pipelines.stages import ClipMaker, FaceTrackFinder, Row, failure_in
from safa.config.preprocess import FaceAlignmentLandmarks, MetadataSource, PreprocessConfig, VideosSource
from safa.data.cost_estimate import estimate_cost
from safa.data.dataset_stats import gather
from safa.data.download import make_downloader
from safa.data.face_tracks import list_tracked_clips, raw_videos, tracks_file
from safa.data.sources import ClipJob, Listing, list_jobs, location_of
from safa.errors import Failure, FailureCode, UserError
from safa.files import absolute, write_json
from safa.progress import LogLines, Progress
from safa.report.dataset_page import write_page

log = logging.getLogger(__name__)

STAGE = "preprocess"
FACE_TRACKS = "face_tracks"  # folder
# What may change between two runs into one folder: none of it changes a stored row.
NOT_HASHED = frozenset(
    {"retry_quarantined", "max_unexpected", "cpus_per_task", "gpus_per_task", "actors", "mix_settings"}
)
BLOCKS_PER_CPU = 8  # small enough that the last ones end together
ROWS_PER_BLOCK = 8  # and that progress is seen, and little is lost, on long lists
MOST_BLOCKS = 4096


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
    _lock_settings(config)
    quarantine = Quarantine(config.out / "quarantine")
    settled = frozenset() if config.retry_quarantined else quarantine.final()
    blocked = ""
    with ExitStack() as stack:
        if isinstance(config.source, VideosSource):
            listed = _with_face_tracks(config, config.source, settled, quarantine, stack)
        done = _done(config)
        jobs = [job for job in listed.jobs if job.clip_id not in done and job.clip_id not in settled]
        bad = [row for row in listed.bad_rows if row.name not in settled | quarantine.fresh]
        total = len(listed.jobs) + len(listed.bad_rows)
        log.info(
            "preprocess: %d clips in, %d still to make, into %s", total, len(jobs) + len(bad), config.out
        )
        quarantine.add(replace(failure, stage=STAGE) for failure in bad)
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
        found = list_tracked_clips(config.source, videos, config.out / FACE_TRACKS)
        return Listing(found.jobs, (*found.bad_rows, *bad))
    return list_jobs(config.source)


def _check(config: PreprocessConfig) -> None:
    """Whatever would fail on every worker fails here, once."""
    needed = [config.landmarks] if isinstance(config.landmarks, FaceAlignmentLandmarks) else []
    if needed or isinstance(config.source, VideosSource):
        from safa.data.detectors import face_alignment

        for part in needed:
            face_alignment.check(part)
        if isinstance(config.source, VideosSource):
            face_alignment.check(config.source.detector)
    if isinstance(config.source, MetadataSource) and config.source.download is not None:
        make_downloader(config.source.download)


def _lock_settings(config: PreprocessConfig) -> None:
    """Refuse a folder of other settings, unless told to mix; how videos are downloaded makes no difference."""
    source = config.source
    if isinstance(source, MetadataSource):
        source = source.model_copy(update={"download": None})
    if not (config.mix_settings and config.out.exists()):
        lock_settings(config.out, config.model_copy(update={"source": source}), NOT_HASHED)


def _done(config: PreprocessConfig) -> set[str]:
    """Ids of the clips that are there; names alone, since a million paths take seconds to build."""
    folders = (config.out / "clips").glob("split=*")
    names = (entry.name for folder in folders for entry in os.scandir(folder))
    return {name.removesuffix(".parquet") for name in names if name.endswith(".parquet")}


# ---- the work, on Ray --------------------------------------------------------------------------------------


def _with_face_tracks(
    config: PreprocessConfig,
    source: VideosSource,
    settled: Set[str],
    quarantine: Quarantine,
    stack: ExitStack,
) -> Listing:
    """Find the face tracks of the videos that have none yet; then every clip is known."""
    videos, _ = raw_videos(source)
    folder = config.out / FACE_TRACKS
    fresh = [v for v in videos if v.name not in settled and not tracks_file(folder, v.name).is_file()]
    if fresh:
        stack.enter_context(ray_session())
        _same_paths_everywhere(config)
        rows = _rows([{"video": absolute(video.where)} for video in fresh])
        given = (source, config.fps, folder.absolute())
        found = rows.map(FaceTrackFinder, fn_constructor_args=given, **_actors(config))
        for done in _progress(found, len(fresh), "videos searched"):
            quarantine.add(_failures(done, "detect"))
    listing = list_inputs(config)
    unread = [
        Failure(row["id"], FailureCode(row["code"]), row["detail"]) for row in quarantine.rows(frozenset())
    ]
    names = {video.name for video in videos if not tracks_file(folder, video.name).is_file()}
    return Listing(listing.jobs, (*listing.bad_rows, *(row for row in unread if row.name in names)))


def _make(config: PreprocessConfig, jobs: Sequence[ClipJob], quarantine: Quarantine) -> str:
    """Make clips; returns why the host of the videos blocks us, empty if it does not."""
    _same_paths_everywhere(config)
    for done in _progress(_clips(config, jobs), len(jobs), "clips"):
        failures = _failures(done, STAGE)
        quarantine.add(failure for failure in failures if failure.code != FailureCode.BLOCKED)
        blocked = next((f.detail for f in failures if f.code == FailureCode.BLOCKED), None)
        if blocked is not None:
            return blocked or "no reason given"  # leaving the loop cancels what is at work
    return ""


def _clips(config: PreprocessConfig, jobs: Sequence[ClipJob]) -> Dataset:
    """The lazy data set that makes the clips: networks stay loaded in actors; anything else runs as tasks."""
    policy = config.source.download if isinstance(config.source, MetadataSource) else None
    rows = job_rows(config, jobs)
    if isinstance(config.landmarks, FaceAlignmentLandmarks):
        resources = _actors(config, policy.parallel if policy else None)
        return rows.flat_map(ClipMaker, fn_constructor_args=(config,), **resources)
    at_once = TaskPoolStrategy(size=policy.parallel) if policy else None
    return rows.flat_map(ClipMaker(config), num_cpus=config.cpus_per_task, compute=at_once)


def job_rows(config: PreprocessConfig, jobs: Sequence[ClipJob]) -> Dataset:
    """Rows ``{jobs}``: one download serves all clips of its video; without one, clips are rows of their own."""
    downloads = isinstance(config.source, MetadataSource) and config.source.download is not None
    groups: dict[object, list[str]] = {}
    for number, job in enumerate(jobs):
        groups.setdefault(job.video_id if downloads else number, []).append(job.to_json())
    return _rows([{"jobs": group} for group in groups.values()])


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
    places = (config.out, location_of(config.source))
    relative = [place for place in places if str(place) != absolute(place)]
    if len(alive) > 1 and relative:
        raise UserError(
            f"relative path on a cluster of {len(alive)} nodes",
            str(relative[0]),
            "Give one that all nodes share.",
        )


def _progress(dataset: Dataset, total: int, what: str) -> Iterator[list[Row]]:
    """Rows as they are finished, with a line of progress now and then."""
    progress = Progress(LogLines(STAGE), total, what)
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        rows = batch.to_pylist()
        yield rows
        progress.add(len(rows), sum(row["n_frames"] for row in rows))


def _failures(rows: Iterable[Row], stage: str) -> list[Failure]:
    return [failure for row in rows if (failure := failure_in(row, stage)) is not None]


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
    stats = gather(config, listed, {row["id"]: row["code"] for row in refused})
    write_json(config.out / "summary.json", {**summary.as_counts(), **stats.as_json()})
    write_page(config.out / "summary.html", stats, summary.as_counts())
    write_manifest(config.out, config, summary.as_counts(), seconds)
    log.info("preprocess: %d clips: %d ok, %d quarantined, %d pending %s", *summary.as_counts().values())
    return summary


def _complain(config: PreprocessConfig, summary: Summary, blocked: str) -> None:
    if blocked:
        raise UserError(
            f"the host of the videos blocks us ({blocked}); {summary.pending} clips are still to make",
            str(config.out),
            "Run the same command again later, from another address, or with source.download.cookies.",
        )
    unexpected = summary.reasons.get(FailureCode.UNEXPECTED, 0)
    if unexpected > config.max_unexpected * summary.total:
        raise UserError(
            f"{unexpected} of {summary.total} clips failed unexpectedly",
            str(config.out / "quarantine"),
            "Read the details there; run again with --set retry_quarantined=true once the cause is fixed.",
        )


def plan(config: PreprocessConfig) -> None:
    """Tell what a run would take, without starting Ray or writing anything."""
    listed = list_inputs(config)
    done = _done(config)
    left = [job for job in listed.jobs if job.clip_id not in done]
    sys.stdout.write(estimate_cost(config, left, len(listed.bad_rows), len(done)).as_text() + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m pipelines.preprocess``."""

    def body(config: PreprocessConfig) -> None:
        preprocess(config)

    instead = {"--plan": ("tell clips, hours, bytes and core-hours of a run, without doing it", plan)}
    return launch("preprocess", "Videos to clips in Parquet.", PreprocessConfig, body, argv, instead)


if __name__ == "__main__":
    sys.exit(main())
