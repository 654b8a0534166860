"""Preprocessing: videos to clips in Parquet.

Run it as ``python -m pipelines.preprocess --config configs/preprocess.yaml``.

Writes into ``out``:
    clips/                                     the data set: shards/, index/, index.json (docs/data.md)
    quarantine/part-*.parquet                  one row for each input that became no clip, with its reason
    face_tracks/<video>.json                   the face tracks of raw videos without a list of clips
    people.parquet                             who is who in them, and who is held out (`split: auto`)
    damaged/*.json                             of clips with damaged frames (`tolerate_damage`): where
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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, Dataset

from pipelines.actor_pool import pool_for
from pipelines.clip_stages import (
    CLIPS,
    CROP,
    DOWNLOAD,
    LANDMARKS,
    WRITE,
    StageRunner,
    Stored,
    Video,
    items_of,
    tables_of,
)
from pipelines.launch import launch, ray_session
from pipelines.lease import exclusive
from pipelines.machines import Need, check_room, room_for
from pipelines.operators import OPEN, Operator, applied, needs, with_room
from pipelines.quarantine import Quarantine, counts_line
from pipelines.ray_metrics import clip_finished, frames_made
from pipelines.run_folder import (
    LOCK,
    MANIFEST,
    check_counts,
    check_settings,
    record_settings,
    refuse_nothing,
    same_settings,
    write_manifest,
)
from pipelines.shared_folder import Checked, Probe, shared
from pipelines.stage_clock import StageClock, live_stages
from pipelines.stages import FACE_TRACKS, FaceTrackFinder, Row, failure_in
from pipelines.worker_deaths import forget_attempts
from safa.batching import batched
from safa.config.preprocess import (
    DlibLandmarksConfig,
    FaceAlignmentLandmarks,
    MetadataSource,
    PreprocessConfig,
    VideosSource,
)
from safa.data.clip_maker import DAMAGED, check_clip, damaged_clips, needs_network
from safa.data.cost_estimate import estimate_cost
from safa.data.dataset_stats import compute_stats
from safa.data.detectors.loading import check as check_detector
from safa.data.detectors.loading import check_source
from safa.data.download.retry import TRANSIT, make_downloader
from safa.data.face_tracks import list_tracked_clips, raw_videos, tracks_file
from safa.data.people import PEOPLE, in_words, read_people, write_people
from safa.data.shards import INDEX, SHARDS, commit_index, gather_index, stored_clips
from safa.data.sources import ClipJob, Listing, list_jobs
from safa.errors import Failure, FailureCode, UserError
from safa.files import absolute, delete, delete_dir, exists, join, remove_leftovers, shown, write_json
from safa.messages import LogLines, Progress, count
from safa.report.dataset_page import write_page

log = logging.getLogger(__name__)

STAGE = "preprocess"
QUARANTINE = "quarantine"  # folder
SUMMARIES = NUMBERS, PAGE = ("summary.json", "summary.html")
# What may change between two runs into one folder, since it changes no stored row.
NOT_HASHED = frozenset(
    {
        *("retry_quarantined", "max_unexpected", "stages", "mix_settings"),
        "source.download",
    }
)
# Where a stage asks for more than there is.
LESS = (
    "Ask for less there (on CPUs alone: gpus: 0, and the detectors' device: cpu), or run on larger machines."
)
BLOCKS_PER_CPU = 8  # so many that the last ones end at about the same time
BLOCKS_PER_DOWNLOAD = 8  # of those that run at once, likewise
DOWNLOADS_PER_BLOCK = 4  # on long lists: the driver needs some milliseconds for each block in each operator
ROWS_PER_BLOCK = 8  # on long lists: so few that progress is seen, and little is lost
MAX_BLOCKS = 12_000  # each costs the driver some milliseconds, and gives a shard at least
BLOCK_BYTES = 2**24  # of pieces between two operators: a few
PIECES_PER_CALL = 4  # of the landmark stage: several, since its batches may hold frames of many clips
PIECES_PER_SHARD = 32  # at least, where shards are written by a stage of its own: about 100 MB


@dataclass(frozen=True)
class Summary:
    """Counts over all runs into one folder; ``reasons`` counts quarantine codes.

    ``pending`` inputs have not been tried, because the host of the videos blocked us and the run stopped.
    ``damaged`` of those that are ``ok`` were made of damaged videos, as ``tolerate_damage`` allows.
    """

    total: int
    ok: int
    quarantined: int
    pending: int
    reasons: dict[str, int]
    damaged: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """The counts with the keys that reports use: in, ok, quarantined, pending."""
        counts = {"in": self.total, "ok": self.ok, "quarantined": self.quarantined}
        return {**counts, "pending": self.pending}

    def as_json(self) -> dict[str, Any]:
        """The counts, ``damaged``, and the reasons below ``reasons``."""
        return {**self.counts, "damaged": self.damaged, "reasons": self.reasons}


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
        _keep_people(config, listed)
        _gather(config, quarantine)
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
    forget_attempts(config.out)
    summary = _summarise(config, listed, quarantine, time.monotonic() - began)
    _raise_if_failed(config, summary, blocked, quarantine)
    return summary


def list_inputs(config: PreprocessConfig) -> Listing:
    """List what the source offers; of raw videos, only clips whose face tracks earlier runs found.

    Raises:
        UserError: nothing to read.
    """
    known = read_people(config.out)
    if isinstance(config.source, VideosSource):
        videos, bad = raw_videos(config.source)
        listing = list_tracked_clips(config.source, videos, join(config.out, FACE_TRACKS), known)
        return replace(listing, bad_rows=(*listing.bad_rows, *bad))
    return list_jobs(config.source, known)


def check(config: PreprocessConfig) -> str:
    """Look at settings and inputs, without Ray and without writing. Returns what was seen.

    Raises:
        UserError: as ``preprocess``, as far as that can be seen before any work.
    """
    if not config.mix_settings and _is_worth_keeping(config):
        check_settings(config.out, config, NOT_HASHED)
    listed = list_inputs(config)
    _check(config)
    if isinstance(config.source, VideosSource):
        return f"{count(len(raw_videos(config.source)[0]), 'video')} to look for faces in"
    seen = f"{count(len(listed.jobs), 'clip')} listed, {len(listed.bad_rows)} more that cannot be used"
    return f"{seen}{_videos_there(config, listed.jobs)}"


def _videos_there(config: PreprocessConfig, jobs: Sequence[ClipJob]) -> str:
    """How many of the listed videos are there, where none is downloaded.

    Raises:
        UserError: not one of them.
    """
    source = config.source
    if not isinstance(source, MetadataSource) or source.download is not None:
        return ""
    videos = {str(job.video): job.video for job in jobs}
    there = sum(exists(video) for video in videos.values())
    if videos and not there:
        fix = "Videos have the names of the list's column video_id, in one folder, e.g. NAME.mp4."
        raise UserError(
            f"not one of {count(len(videos), 'listed video')} is there", shown(source.videos), fix
        )
    return f"; {there} of {count(len(videos), 'video')} are there"


def _check(config: PreprocessConfig) -> None:
    """Report here, once, what would fail on every worker."""
    if isinstance(config.landmarks, FaceAlignmentLandmarks | DlibLandmarksConfig):
        check_detector(config.landmarks)
    if isinstance(config.source, VideosSource):
        check_source(config.source)
    if isinstance(config.source, MetadataSource) and config.source.download is not None:
        make_downloader(config.source.download)


def _check_settings(config: PreprocessConfig) -> None:
    """Refuse a folder of other settings, unless they may mix, or nothing came out of it but refusals."""
    if config.mix_settings:
        return
    if not same_settings(config.out, config, NOT_HASHED) and not _is_worth_keeping(config):
        _forget_refusals(config)
    check_settings(config.out, config, NOT_HASHED)


def _is_worth_keeping(config: PreprocessConfig) -> bool:
    """Whether there are clips, or face tracks of a run that did not come to its end."""
    if stored_clips(join(config.out, CLIPS)):
        return True
    return exists(join(config.out, FACE_TRACKS)) and not exists(join(config.out, NUMBERS))


def _forget_refusals(config: PreprocessConfig) -> None:
    """Delete what a run leaves of which every input was refused: other settings may take these inputs."""
    for folder in (QUARANTINE, CLIPS, DAMAGED, FACE_TRACKS):
        delete_dir(join(config.out, folder))
    for name in (*SUMMARIES, MANIFEST, PEOPLE):
        delete(join(config.out, name))


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
        join(config.out, DAMAGED),
    ]
    if isinstance(config.source, MetadataSource) and config.source.download is not None:
        folders += [config.source.videos, join(config.source.videos, TRANSIT)]
    for folder in folders:
        remove_leftovers(folder)
    forget_attempts(config.out)


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
        worker = (FaceTrackFinder, source.with_absolute_paths(), config.fps, absolute(config.out))
        check_room(*all_needs(config))
        finder = _finder_of_tracks(config, source)
        with room_for(*needs("preprocessing", [finder], LESS)), shared(config.out) as probe:
            pool = pool_for("face tracks", finder.cpus, finder.gpus, finder.actors or OPEN, len(fresh))
            outcomes = rows.map(
                Checked,
                fn_constructor_args=((probe,), *worker),
                compute=ActorPoolStrategy(min_size=pool.least, max_size=pool.most, initial_size=pool.first),
                num_cpus=pool.cpus,
                num_gpus=pool.gpus or None,
            )
            for done in _progress(outcomes, len(fresh), "videos"):
                quarantine.add(_failures(done, "detect"))
    listing = list_inputs(config)
    failed = [
        Failure(row["id"], FailureCode(row["code"]), row["detail"]) for row in quarantine.rows(frozenset())
    ]
    names = {video.name for video in videos if not exists(tracks_file(folder, video.name))}
    return replace(listing, bad_rows=(*listing.bad_rows, *(row for row in failed if row.name in names)))


def _keep_people(config: PreprocessConfig, listed: Listing) -> None:
    """Record who was found and who is held out: later runs, with more videos, change nothing of it."""
    if listed.people:
        log.info("preprocess: %s", in_words(listed.people))
        if list(listed.people) != read_people(config.out):
            write_people(config.out, listed.people)


def _make(config: PreprocessConfig, jobs: Sequence[ClipJob], quarantine: Quarantine) -> str:
    """Make clips. Returns why the host of the videos blocks us; empty if it does not.

    A task that is started again after its worker died may lose rows that another one had taken already; so
    clips without any outcome are made in another pass, as long as that helps.
    """
    clips = join(config.out, CLIPS)
    left = list(jobs)
    with (
        room_for(*needs("preprocessing", operators(config), LESS)),
        shared(config.out) as probe,
        _shared_downloads(config) as downloads,
    ):
        while left:
            blocked = _run(config, left, (probe, *downloads), quarantine)
            if blocked:
                return blocked
            settled = stored_clips(clips) | quarantine.fresh
            before, left = len(left), [job for job in left if job.clip_id not in settled]
            if len(left) == before:
                break
            if left:
                log.warning("preprocess: %s lost with their workers; made again", count(len(left), "clip"))
    return ""


@contextmanager
def _shared_downloads(config: PreprocessConfig) -> Iterator[tuple[Probe, ...]]:
    """Downloads are made by one task and used by another: all machines must see their folder, too."""
    source = config.source
    if not isinstance(source, MetadataSource) or source.download is None:
        yield ()
        return
    with shared(source.videos) as probe:
        yield (probe,)


def _run(
    config: PreprocessConfig, jobs: Sequence[ClipJob], probes: Sequence[Probe], quarantine: Quarantine
) -> str:
    """Send these clips through the graph once. Returns why the host of the videos blocks us."""
    stages = [stage for operator in operators(config) for stage in operator.stages]
    with live_stages(STAGE, stages) as clock:
        outcomes = graph(config, job_rows(config, jobs), len(jobs), probes, clock)
        return _taken(outcomes, len(jobs), quarantine)


def _taken(outcomes: Dataset, total: int, quarantine: Quarantine) -> str:
    """Take the outcomes as they come, and show the progress. Returns why the host of the videos blocks us."""
    progress = Progress(LogLines(STAGE), total, "clips")
    done: set[str] = set()
    for table in outcomes.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        items = items_of(table)
        failures = [replace(item, stage=STAGE) for item in items if isinstance(item, Failure)]
        quarantine.add(f for f in failures if f.code != FailureCode.BLOCKED and f.name not in done)
        blocked = next((f.detail for f in failures if f.code == FailureCode.BLOCKED), None)
        if blocked is not None:
            return blocked or "no reason given"  # leaving the loop cancels the tasks in progress
        stored = [item for item in items if isinstance(item, Stored)]
        ended = {item.clip_id for item in stored if item.last} | {failure.name for failure in failures}
        progress.add(len(ended - done), sum(item.n_frames for item in stored))
        _count(stored, [failure for failure in failures if failure.name not in done])
        done |= ended
    return ""


def _count(stored: Sequence[Stored], failures: Sequence[Failure]) -> None:
    """Show these outcomes to whoever watches the cluster."""
    frames_made(STAGE, sum(item.n_frames for item in stored))
    for item in stored:
        if item.last:
            clip_finished(STAGE, "")
    for failure in failures:
        clip_finished(STAGE, failure.code)


# ---- the graph ---------------------------------------------------------------------------------------------


def operators(config: PreprocessConfig) -> list[Operator]:
    """The graph of these settings. Neighbouring stages that need nothing but CPUs share their process."""
    stages = config.stages
    graph = []
    if isinstance(config.source, MetadataSource) and config.source.download is not None:
        at_once = config.source.download.parallel
        graph.append(Operator((DOWNLOAD,), "stages.download", stages.download.cpus, at_once=at_once))
    if not needs_network(config):
        graph.append(Operator((CROP, WRITE), "stages.crop", stages.crop.cpus))
    elif not _gpus_of_landmarks(config):
        found = stages.landmarks
        together = (CROP, LANDMARKS, WRITE)
        graph.append(Operator(together, "stages.landmarks", found.cpus, actors=found.actors or OPEN))
    else:
        found = stages.landmarks
        pool = (found.cpus, _gpus_of_landmarks(config), found.actors or OPEN)
        graph.append(Operator((CROP,), "stages.crop", stages.crop.cpus))
        graph.append(Operator((LANDMARKS,), "stages.landmarks", *pool, rows=PIECES_PER_CALL))
        graph.append(Operator((WRITE,), "stages.write", stages.write.cpus, rows=PIECES_PER_SHARD))
    return graph


def _gpus_of_landmarks(config: PreprocessConfig) -> float:
    """Of each process; dlib computes on CPUs, whatever is set aside for it."""
    return config.stages.landmarks.gpus if isinstance(config.landmarks, FaceAlignmentLandmarks) else 0.0


def all_needs(config: PreprocessConfig) -> list[Need]:
    """What the stages need of the machines, each by itself; those that come after the face tracks, too."""
    graph = operators(config)
    if isinstance(config.source, VideosSource):
        graph = [_finder_of_tracks(config, config.source), *graph]
    return needs("preprocessing", graph, LESS)


def _finder_of_tracks(config: PreprocessConfig, source: VideosSource) -> Operator:
    asked = config.stages.face_tracks
    gpus = 0.0 if source.detector.name == "dlib" else asked.gpus
    return Operator(("detect",), "stages.face_tracks", asked.cpus, gpus, actors=asked.actors or OPEN)


def graph(
    config: PreprocessConfig,
    rows: Dataset,
    n_clips: int,
    probes: Sequence[Probe],
    clock: StageClock | None = None,
) -> Dataset:
    """The lazy data set that makes the clips of these rows, and gives their outcomes."""
    config = config.with_absolute_paths()
    for operator in with_room(STAGE, operators(config), n_clips):
        rows = applied(operator, rows, (probes, StageRunner, config, operator.stages, clock))
    return rows


def job_rows(config: PreprocessConfig, jobs: Sequence[ClipJob]) -> Dataset:
    """Rows for the first stage, in blocks so small that a task has a few seconds of work."""
    rows = ray.data.from_arrow(job_tables(config, jobs))
    rows.context.target_max_block_size = BLOCK_BYTES
    return rows


def job_tables(config: PreprocessConfig, jobs: Sequence[ClipJob]) -> list[pa.Table]:
    """A row for each video that is downloaded, with all its clips, or else for each clip. Absolute paths."""
    download = config.source.download if isinstance(config.source, MetadataSource) else None
    groups: dict[object, list[ClipJob]] = {}
    for number, job in enumerate(jobs):
        job = replace(job, video=absolute(job.video))
        groups.setdefault(job.video_id if download else number, []).append(job)
    videos = [Video(tuple(group)) for group in groups.values()]
    if download:
        least = download.parallel * BLOCKS_PER_DOWNLOAD
        blocks = min(max(least, len(videos) // DOWNLOADS_PER_BLOCK), MAX_BLOCKS)
    else:
        blocks = _num_blocks(len(videos))
    size = max(1, -(-len(videos) // blocks))
    return [pa.concat_tables(tables_of(part)) for part in batched(videos, size)]


def _num_blocks(rows: int) -> int:
    cpus = max(1, int(ray.cluster_resources().get("CPU", 1))) if ray.is_initialized() else 1
    return min(max(cpus * BLOCKS_PER_CPU, rows // ROWS_PER_BLOCK), MAX_BLOCKS, rows)


def _rows(rows: list[dict[str, Any]]) -> Dataset:
    return ray.data.from_items(rows, override_num_blocks=_num_blocks(len(rows)))


def _progress(dataset: Dataset, total: int, what: str) -> Iterator[list[Row]]:
    """Yield rows as they are finished, and log the progress."""
    progress = Progress(LogLines(STAGE), total, what)
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        rows = batch.to_pylist()
        yield rows
        progress.add(len(rows), 0)


def _failures(rows: Iterable[Row], stage: str) -> list[Failure]:
    return [failure for row in rows if (failure := failure_in(row, stage)) is not None]


def _gather(config: PreprocessConfig, quarantine: Quarantine) -> None:
    """Keep the clips of which all pieces are stored, and refuse those of them that are of no use."""
    refused = gather_index(join(config.out, CLIPS), partial(check_clip, config))
    quarantine.add(Failure.of(each.clip_id, each.error, STAGE) for each in refused)


# ---- the outcome -------------------------------------------------------------------------------------------


def _summarise(config: PreprocessConfig, listed: Listing, quarantine: Quarantine, seconds: float) -> Summary:
    """Count what is on disk, and write the summaries and the manifest."""
    _gather(config, quarantine)
    commit_index(join(config.out, CLIPS))
    done = stored_clips(join(config.out, CLIPS))
    quarantine.settle(done)
    names = [job.clip_id for job in listed.jobs] + [row.name for row in listed.bad_rows]
    ids = set(names)
    refused = [row for row in quarantine.rows(done) if row["id"] in ids]
    pending = len(ids - done - {row["id"] for row in refused})
    reasons = dict(Counter(row["code"] for row in refused))
    damaged = len(damaged_clips(config.out) & ids & done)
    summary = Summary(len(names), len(ids & done), len(refused), pending, reasons, damaged)
    stats = compute_stats(config, listed, {row["id"]: row["code"] for row in refused})
    write_json(join(config.out, NUMBERS), {**summary.as_json(), **stats.as_json()})
    write_page(join(config.out, PAGE), stats, summary.as_json())
    write_manifest(config.out, config, summary.as_json(), seconds)
    log.info("preprocess: %s", counts_line(summary.counts, summary.reasons))
    return summary


def _raise_if_failed(
    config: PreprocessConfig, summary: Summary, blocked: str, quarantine: Quarantine
) -> None:
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
    reasons = [(row["code"], row["detail"]) for row in quarantine.rows(frozenset())]
    refuse_nothing(summary.counts, config.out, reasons)


def print_cost_estimate(config: PreprocessConfig) -> None:
    """Print what a run would take, without starting Ray or writing anything.

    Raises:
        UserError: the source is raw videos, whose clips are known once their faces are found.
    """
    if isinstance(config.source, VideosSource):
        fix = "Run it on a few videos and multiply: manifest.json has the seconds."
        raise UserError("how many clips raw videos hold is not known in advance", "source.kind: videos", fix)
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
    description = "Videos to clips in Parquet."
    return launch(
        "preprocess", description, PreprocessConfig, body, argv, check=check, alternatives=alternatives
    )


if __name__ == "__main__":
    sys.exit(main())
