"""Preprocessing: videos to clips in Parquet.

Run it as ``python -m pipelines.preprocess --config configs/preprocess.yaml``.

Writes into ``out``:
    clips/                                     the data set: shards/, index/, index.json (docs/data.md)
    quarantine/part-*.parquet                  one row for each input that became no clip, with its reason
    face_tracks/<video>.json                   the face tracks of raw videos without a list of clips
    summary.json, summary.html                 counts (in = ok + quarantined + pending); sample frames
A run that is stopped loses only the clips in progress: the next one makes what is missing. ``pending`` is 0
unless the host of the videos blocked us. ``--estimate-cost`` prints what a run would take.
"""

from __future__ import annotations

import logging
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
from pipelines.lease import exclusive
from pipelines.quarantine import Quarantine, counts_line
from pipelines.run_folder import (
    LOCK,
    check_counts,
    check_settings,
    record_settings,
    refuse_nothing,
    write_manifest,
)
from pipelines.shared_folder import Checked, Probe, shared
from pipelines.stages import CLIPS, ClipMaker, FaceTrackFinder, Row, failure_in
from safa.config.preprocess import FaceAlignmentLandmarks, MetadataSource, PreprocessConfig, VideosSource
from safa.data.cost_estimate import estimate_cost
from safa.data.dataset_stats import compute_stats
from safa.data.detectors import face_alignment
from safa.data.download.retry import TRANSIT, make_downloader
from safa.data.face_tracks import list_tracked_clips, raw_videos, tracks_file
from safa.data.shards import INDEX, SHARDS, commit_index, stored_clips
from safa.data.sources import ClipJob, Listing, list_jobs
from safa.errors import Failure, FailureCode, UserError
from safa.files import absolute, exists, join, remove_leftovers, shown, write_json
from safa.messages import LogLines, Progress
from safa.report.dataset_page import write_page

log = logging.getLogger(__name__)

STAGE = "preprocess"
FACE_TRACKS, QUARANTINE = "face_tracks", "quarantine"  # folders
# What may change between two runs into one folder, since it changes no stored row.
NOT_HASHED = frozenset(
    {
        *("retry_quarantined", "max_unexpected", "cpus_per_task", "gpus_per_task", "actors", "mix_settings"),
        "source.download",
    }
)
BLOCKWISE: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow"}  # a call gets a whole block
BLOCKS_PER_CPU = 8  # so many that the last ones end at about the same time
ROWS_PER_BLOCK = 8  # on long lists: so few that progress is seen, and little is lost
MAX_BLOCKS = 4096


@dataclass(frozen=True)
class Summary:
    """Counts over all runs into one folder; ``reasons`` counts quarantine codes.

    ``pending`` inputs have not been tried, because the host of the videos blocked us and the run stopped.
    """

    total: int
    ok: int
    quarantined: int
    pending: int
    reasons: dict[str, int]

    @property
    def counts(self) -> dict[str, int]:
        """The counts with the keys that reports use: in, ok, quarantined, pending."""
        counts = {"in": self.total, "ok": self.ok, "quarantined": self.quarantined}
        return {**counts, "pending": self.pending}

    def as_json(self) -> dict[str, Any]:
        """The counts, and the reasons below ``reasons``."""
        return {**self.counts, "reasons": self.reasons}


def preprocess(config: PreprocessConfig) -> Summary:
    """Make every clip that is not stored yet.

    Raises:
        UserError: nothing to read, weights or packages missing, a folder of other settings, a host that
            blocks us, or too many unexpected failures.
    """
    with exclusive(config.out):
        return _preprocess(config)


def _preprocess(config: PreprocessConfig) -> Summary:
    began = time.monotonic()
    _check_settings(config)
    listed = list_inputs(config)
    _check(config)
    _record_settings(config)
    _clean_up(config)
    quarantine = Quarantine(join(config.out, QUARANTINE))
    settled = frozenset() if config.retry_quarantined else quarantine.final()
    blocked = ""
    with ExitStack() as stack:
        if isinstance(config.source, VideosSource):
            listed = _with_face_tracks(config, config.source, settled, quarantine, stack)
        done = stored_clips(join(config.out, CLIPS))
        jobs = [job for job in listed.jobs if job.clip_id not in done and job.clip_id not in settled]
        bad = [row for row in listed.bad_rows if row.name not in settled | quarantine.fresh]
        total = len(listed.jobs) + len(listed.bad_rows)
        log.info(
            "preprocess: %d clips, %d still to do, into %s", total, len(jobs) + len(bad), shown(config.out)
        )
        quarantine.add(replace(failure, stage=STAGE) for failure in bad)
        if jobs:
            stack.enter_context(ray_session())
            blocked = _make(config, jobs, quarantine)
    summary = _summarise(config, listed, quarantine, time.monotonic() - began)
    _raise_if_failed(config, summary, blocked)
    return summary


def list_inputs(config: PreprocessConfig) -> Listing:
    """List what the source offers; of raw videos, only clips whose face tracks earlier runs found.

    Raises:
        UserError: nothing to read.
    """
    if isinstance(config.source, VideosSource):
        videos, bad = raw_videos(config.source)
        listing = list_tracked_clips(config.source, videos, join(config.out, FACE_TRACKS))
        return Listing(listing.jobs, (*listing.bad_rows, *bad))
    return list_jobs(config.source)


def _check(config: PreprocessConfig) -> None:
    """Report here, once, what would fail on every worker."""
    if isinstance(config.landmarks, FaceAlignmentLandmarks):
        face_alignment.check(config.landmarks)
    if isinstance(config.source, VideosSource):
        face_alignment.check(config.source.detector)
    if isinstance(config.source, MetadataSource) and config.source.download is not None:
        make_downloader(config.source.download)


def _check_settings(config: PreprocessConfig) -> None:
    """Refuse a folder of other settings, unless they may mix."""
    if not config.mix_settings:
        check_settings(config.out, config, NOT_HASHED)


def _record_settings(config: PreprocessConfig) -> None:
    """Record whose folder it is: where settings mix, those of the first run stay."""
    if not (config.mix_settings and exists(join(config.out, LOCK))):
        record_settings(config.out, config, NOT_HASHED)


def _clean_up(config: PreprocessConfig) -> None:
    """Delete incomplete files of a run that was killed."""
    clips = join(config.out, CLIPS)
    folders = [
        clips,
        join(clips, SHARDS),
        join(clips, INDEX),
        join(config.out, FACE_TRACKS),
        join(config.out, QUARANTINE),
    ]
    if isinstance(config.source, MetadataSource) and config.source.download is not None:
        folders += [config.source.videos, config.source.videos / TRANSIT]
    for folder in folders:
        remove_leftovers(folder)


# ---- the work, on Ray --------------------------------------------------------------------------------------


def _with_face_tracks(
    config: PreprocessConfig,
    source: VideosSource,
    settled: Set[str],
    quarantine: Quarantine,
    stack: ExitStack,
) -> Listing:
    """Find the face tracks of the videos that have none yet, then list all clips."""
    videos, _ = raw_videos(source)
    folder = join(config.out, FACE_TRACKS)
    fresh = [v for v in videos if v.name not in settled and not exists(tracks_file(folder, v.name))]
    if fresh:
        stack.enter_context(ray_session())
        rows = _rows([{"video": absolute(video.location)} for video in fresh])
        worker = (FaceTrackFinder, source.with_absolute_paths(), config.fps, absolute(folder))
        with shared(config.out) as probe:
            outcomes = rows.map(Checked, fn_constructor_args=(probe, *worker), **_actors(config))
            for done in _progress(outcomes, len(fresh), "videos"):
                quarantine.add(_failures(done, "detect"))
    listing = list_inputs(config)
    failed = [
        Failure(row["id"], FailureCode(row["code"]), row["detail"]) for row in quarantine.rows(frozenset())
    ]
    names = {video.name for video in videos if not exists(tracks_file(folder, video.name))}
    return Listing(listing.jobs, (*listing.bad_rows, *(row for row in failed if row.name in names)))


def _make(config: PreprocessConfig, jobs: Sequence[ClipJob], quarantine: Quarantine) -> str:
    """Make clips. Returns why the host of the videos blocks us; empty if it does not."""
    with shared(config.out) as probe:
        for done in _progress(_clips(config, jobs, probe), len(jobs), "clips"):
            failures = _failures(done, STAGE)
            quarantine.add(failure for failure in failures if failure.code != FailureCode.BLOCKED)
            blocked = next((f.detail for f in failures if f.code == FailureCode.BLOCKED), None)
            if blocked is not None:
                return blocked or "no reason given"  # leaving the loop cancels the tasks in progress
    return ""


def _clips(config: PreprocessConfig, jobs: Sequence[ClipJob], probe: Probe) -> Dataset:
    """The lazy data set that makes the clips: in actors, which keep networks loaded, or else in tasks."""
    policy = config.source.download if isinstance(config.source, MetadataSource) else None
    rows = job_rows(config, jobs)
    config = config.with_absolute_paths()
    if isinstance(config.landmarks, FaceAlignmentLandmarks):
        resources = _actors(config, policy.parallel if policy else None)
        arguments = (probe, ClipMaker, config)
        return rows.map_batches(Checked, fn_constructor_args=arguments, **BLOCKWISE, **resources)
    at_once = TaskPoolStrategy(size=policy.parallel) if policy else None
    worker = Checked(probe, ClipMaker, config)
    return rows.map_batches(worker, num_cpus=config.cpus_per_task, compute=at_once, **BLOCKWISE)


def job_rows(config: PreprocessConfig, jobs: Sequence[ClipJob]) -> Dataset:
    """Rows ``{jobs}``: all clips of a video that is downloaded, or else one clip. Paths are absolute."""
    downloads = isinstance(config.source, MetadataSource) and config.source.download is not None
    groups: dict[object, list[str]] = {}
    for number, job in enumerate(jobs):
        job = replace(job, video=absolute(job.video))
        groups.setdefault(job.video_id if downloads else number, []).append(job.to_json())
    return _rows([{"jobs": group} for group in groups.values()])


def _rows(rows: list[dict[str, Any]]) -> Dataset:
    cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
    blocks = min(max(cpus * BLOCKS_PER_CPU, len(rows) // ROWS_PER_BLOCK), MAX_BLOCKS, len(rows))
    return ray.data.from_items(rows, override_num_blocks=blocks)


def _actors(config: PreprocessConfig, most: int | None = None) -> dict[str, Any]:
    size = min(config.actors, most or config.actors)
    resources = {"num_cpus": config.cpus_per_task, "num_gpus": config.gpus_per_task}
    return {"compute": ActorPoolStrategy(size=size), **resources}


def _progress(dataset: Dataset, total: int, what: str) -> Iterator[list[Row]]:
    """Yield rows as they are finished, and log the progress."""
    progress = Progress(LogLines(STAGE), total, what)
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        rows = batch.to_pylist()
        yield rows
        progress.add(len(rows), sum(row["n_frames"] for row in rows))


def _failures(rows: Iterable[Row], stage: str) -> list[Failure]:
    return [failure for row in rows if (failure := failure_in(row, stage)) is not None]


# ---- the outcome -------------------------------------------------------------------------------------------


def _summarise(config: PreprocessConfig, listed: Listing, quarantine: Quarantine, seconds: float) -> Summary:
    """Count what is on disk, and write the summaries and the manifest."""
    commit_index(join(config.out, CLIPS))
    done = stored_clips(join(config.out, CLIPS))
    quarantine.settle(done)
    names = [job.clip_id for job in listed.jobs] + [row.name for row in listed.bad_rows]
    ids = set(names)
    refused = [row for row in quarantine.rows(done) if row["id"] in ids]
    pending = len(ids - done - {row["id"] for row in refused})
    reasons = dict(Counter(row["code"] for row in refused))
    summary = Summary(len(names), len(ids & done), len(refused), pending, reasons)
    stats = compute_stats(config, listed, {row["id"]: row["code"] for row in refused})
    write_json(join(config.out, "summary.json"), {**summary.as_json(), **stats.as_json()})
    write_page(join(config.out, "summary.html"), stats, summary.as_json())
    write_manifest(config.out, config, summary.as_json(), seconds)
    log.info("preprocess: %s", counts_line(summary.counts, summary.reasons))
    return summary


def _raise_if_failed(config: PreprocessConfig, summary: Summary, blocked: str) -> None:
    if blocked:
        raise UserError(
            f"the host of the videos blocks us ({blocked}); {summary.pending} clips are still to do",
            shown(config.out),
            "Run the same command again later, from another network, or with source.download.cookies.",
        )
    check_counts(summary.counts, config.out)
    unexpected = summary.reasons.get(FailureCode.UNEXPECTED, 0)
    if unexpected > config.max_unexpected * summary.total:
        raise UserError(
            f"{unexpected} of {summary.total} clips failed unexpectedly",
            shown(join(config.out, QUARANTINE)),
            "Read the details there; run again with --set retry_quarantined=true once the cause is fixed.",
        )
    refuse_nothing(summary.counts, config.out)


def print_cost_estimate(config: PreprocessConfig) -> None:
    """Print what a run would take, without starting Ray or writing anything."""
    listed = list_inputs(config)
    done = stored_clips(join(config.out, CLIPS))
    left = [job for job in listed.jobs if job.clip_id not in done]
    sys.stdout.write(estimate_cost(config, left, len(listed.bad_rows), len(done)).as_text() + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m pipelines.preprocess``."""

    def body(config: PreprocessConfig) -> None:
        preprocess(config)

    help_text = "print the clips, hours, bytes and core-hours that a run would take, and stop"
    alternatives = {"--estimate-cost": (help_text, print_cost_estimate)}
    return launch("preprocess", "Videos to clips in Parquet.", PreprocessConfig, body, argv, alternatives)


if __name__ == "__main__":
    sys.exit(main())
