"""Evaluation: reconstruct and animate held-out clips, score them, write a report.

Run it as ``python -m pipelines.evaluate --config configs/evaluate.yaml``.

Writes into ``out``:
    index.html                    the report; opens from disk
    metrics.json                  its numbers: means over clips, with intervals
    clips.parquet, frames/        scores of every clip, and of every frame
    clips/<mode>/<clip>/          video and strip of a clip that is shown; meshes of every clip
    results/, features/           what the numbers are added up from
    quarantine/failures.parquet   one row for each clip that could not be evaluated, with its reason
``python -m pipelines.evaluate --compare RUN RUN ... --out FOLDER`` puts finished evaluations side by side.
docs/evaluation.md defines the metrics.
Clips are cut into windows of frames, which go through a graph of stages (``pipelines.window_stages``). What
workers have written counts once it is complete, so a stopped run loses only the windows in progress; the next
run does what is missing, and tries failures again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np
import ray
import ray.data

from pipelines.launch import launch, ray_session, set_up_logging
from pipelines.lease import exclusive
from pipelines.machines import Need, room_for
from pipelines.operators import OPEN, Operator, applied, needs, with_room
from pipelines.quarantine import SHOWN, counts_line, quarantine_row, write_quarantine
from pipelines.ray_metrics import clip_finished, frames_made
from pipelines.run_folder import CONFIG as TRAINING_CONFIG
from pipelines.run_folder import (
    MANIFEST,
    check_counts,
    check_settings,
    record_settings,
    refuse_nothing,
    versions,
    write_manifest,
)
from pipelines.shared_folder import Probe, shared
from pipelines.stage_clock import StageClock, live_stages
from pipelines.window_stages import (
    JOIN,
    MODEL,
    NETWORKS,
    READ,
    SCORE,
    STAGES,
    WRITE,
    Item,
    WindowRunner,
    items_of,
    table_of,
)
from pipelines.worker_deaths import forget_attempts
from safa.checkpoint.native import ModelInfo, load_model
from safa.command_line import Parser
from safa.config import dump_settings, load_settings
from safa.config.inference import EvaluateConfig, Mode
from safa.config.training import TrainConfig
from safa.data.clip_store import ClipInfo, ClipStore
from safa.errors import Failure, FailureCode, UserError, run_reporting_errors
from safa.evaluation.clip_files import CLIPS, SEGMENTS, segments_folder
from safa.evaluation.jobs import list_jobs
from safa.evaluation.parts import Totals, add_up, fid_of_parts
from safa.evaluation.results import ClipResult, ScoreRow
from safa.evaluation.scorers import load_scorers, scorers_here, skipped_metrics
from safa.evaluation.windows import Window, count_windows, draw_shown, windows_of
from safa.files import (
    LocalMirror,
    Location,
    absolute,
    dir_names,
    entries,
    exists,
    is_uri,
    join,
    location,
    read_bytes,
    remove_leftovers,
    reporting_errors,
    shown,
    write_json,
)
from safa.inference.swap_mask import load_mask
from safa.messages import LogLines, Progress, count
from safa.models.safa import Safa
from safa.report.compare import read_run, write_comparison
from safa.report.content import ReportContent, TrainingRun, metrics_json, tracked_numbers, write_clips
from safa.report.describe import describe_evaluation, describe_model, describe_training
from safa.report.page import write_page
from safa.training.metrics_logger import FILE_NAME as METRICS_FILE
from safa.training.metrics_logger import read_metrics
from safa.training.trackers import missing_package, refuse_missing_package, start_tracking

log = logging.getLogger(__name__)

STAGE, SCALE = "evaluate", "scale"
PAGE, NUMBERS = "index.html", "metrics.json"
ALL_CLIPS = "clips.parquet"
LESS = (
    "Ask for less with scale.cpus_per_actor, scale.gpus_per_actor or scale.actors, or run on larger machines."
)
BLOCKS_PER_ACTOR = 8
WINDOWS_PER_BLOCK = 32  # on long lists
WINDOWS_PER_CALL = 4  # of a stage on GPUs: each call leaves a mark
WINDOWS_PER_PART = 256  # where parts are written by a stage of their own
BLOCK_BYTES = 2**24  # between two operators: a window, or a few small ones
MAX_BLOCKS = 4096
# What may change between two runs into one folder.
NOT_HASHED = frozenset({"title", "history", "max_unexpected", "scale", "report", "tracking"})


class EvaluationKey(EvaluateConfig):
    """The settings, and hashes of their inputs: another model at the same path is another evaluation."""

    model_sha256: str
    clips_sha256: str
    files_sha256: str  # of the weights of scorers and face parser, and of the list of pairs


def evaluate(config: EvaluateConfig, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Evaluate the clips that are not evaluated yet, then write the report.

    Args:
        seconds: wall times of earlier stages, and of earlier starts of this one, for the report.

    Returns:
        The content of ``metrics.json``.

    Raises:
        UserError: nothing to evaluate, a model that does not fit the clips, a folder of another evaluation,
            or too many unexpected failures.
    """
    began = time.monotonic()
    runs = _training_runs(config.history)
    with exclusive(config.out):  # whether that can be, before the model is loaded
        pass
    inputs = _read_inputs(config)
    here, jobs, model, info = inputs.here, inputs.jobs, inputs.model, inputs.info
    locked = EvaluationKey.model_validate({**dict(config), **inputs.hashes})
    with exclusive(config.out):
        check_settings(config.out, locked, NOT_HASHED)
        record_settings(config.out, locked, NOT_HASHED, config)
        _clean_up(config.out)
        totals, failed = _do_what_is_missing(here, jobs)
        results, failures = jobs.results(totals, failed), tuple(failed.values())
        _check_counts(config, len(jobs.jobs), results, failures)
        # The failures of this run alone, since it tried those of earlier ones again.
        rows = [*map(quarantine_row, failures)]
        write_quarantine(join(config.out, "quarantine", "failures.parquet"), rows)
        spent = seconds.get(STAGE, 0.0) + time.monotonic() - began
        write_clips(join(config.out, ALL_CLIPS), results, CLIPS)
        content = _content(config, model, results, failures, runs, {**seconds, STAGE: spent})
        content = replace(content, hashes=inputs.hashes, fid=fid_of_parts(config.out), step=info.step)
        numbers = metrics_json(content)
        write_page(content, join(config.out, PAGE))
        write_json(join(config.out, NUMBERS), numbers)
        write_manifest(config.out, locked, numbers["counts"], spent)
        reasons = Counter(str(failure.code) for failure in failures)
        log.info("evaluate: %s", counts_line(numbers["counts"], reasons))
        _refuse_too_many(failures, len(jobs.jobs), config)
        refuse_nothing(numbers["counts"], config.out, [(str(f.code), f.detail) for f in failures])
        _send_to_trackers(locked, info.step, numbers)
        return numbers


@dataclass(frozen=True)
class _Inputs:
    """What an evaluation reads before it starts.

    Attributes:
        here: the settings, with the scorers that this machine can run.
    """

    here: EvaluateConfig
    jobs: _Jobs
    model: Safa
    info: ModelInfo
    hashes: dict[str, str]


def _read_inputs(config: EvaluateConfig) -> _Inputs:
    """Read the inputs, and refuse what would make every clip fail."""
    refuse_missing_package(missing_package(config.tracking))
    store = ClipStore(config.clips)
    clips = [clip for clip in store.clips() if clip.split in config.splits]
    model, info = load_model(config.model, rasterizer=config.rasterizer)
    here = config.model_copy(update={"scorers": scorers_here(config.scorers)})
    _check(clips, model, here)
    hashes = {
        "model_sha256": _fingerprint(model),
        "clips_sha256": _fingerprint_of_clips(store, clips),
        "files_sha256": _fingerprint_of_files(config),
    }
    return _Inputs(here, _Jobs(config, clips), model, info, hashes)


def check(config: EvaluateConfig) -> str:
    """Look at settings and inputs, without Ray and without writing. Returns what was seen.

    Raises:
        UserError: as ``evaluate``, as far as that can be seen before any work.
    """
    _training_runs(config.history)
    inputs = _read_inputs(config)
    locked = EvaluationKey.model_validate({**dict(config), **inputs.hashes})
    check_settings(config.out, locked, NOT_HASHED)
    return f"{count(len(inputs.jobs.jobs), 'clip')} for the model of step {inputs.info.step:,}"


def _check_counts(
    config: EvaluateConfig, total: int, results: Sequence[ClipResult], failures: Sequence[Failure]
) -> None:
    """Refuse to report on less than what was asked for: every job has all its windows, or a reason."""
    counts = {"in": total, "ok": len(results), "quarantined": len(failures)}
    check_counts({**counts, "pending": total - len(results) - len(failures)}, config.out)


def _do_what_is_missing(config: EvaluateConfig, jobs: _Jobs) -> tuple[Totals, dict[int, Failure]]:
    """Evaluate the windows that are not there, and join those of long clips. Gives reasons by job."""
    out, length, failed = config.out, config.scale.window, jobs.too_short()
    totals = add_up(out, jobs.n_frames, length)
    if lost := jobs.without_files(out, totals):  # deleted by hand, or a run that was killed
        totals = add_up(out, jobs.n_frames, length, lost)
    missing = [window for window in jobs.windows() if not totals.has(window)]
    started = len({window.number for window in missing})
    log.info("evaluate: %d clips, %d still to do, into %s", len(jobs.jobs), started, shown(out))
    with ray_session(), shared(out) as probe:
        for failure in failed.values():
            clip_finished(STAGE, failure.code)
        for item in process(config, missing, probe):
            if item.failure is not None:
                failed.setdefault(item.window.number, item.failure)
        totals = add_up(out, jobs.n_frames, length, frozenset(failed))
        for item in join_clips(config, jobs.to_join(out, totals), probe):
            if item.failure is not None:
                failed[item.window.number] = item.failure
    return totals, failed


class _Jobs:
    """All jobs of an evaluation, in their order."""

    def __init__(self, config: EvaluateConfig, clips: Sequence[ClipInfo]) -> None:
        self.jobs = list_jobs(clips, config)
        self._clips, self._length = {clip.clip_id: clip for clip in clips}, config.scale.window
        frames = [self._clips[job.driving].n_frames for job in self.jobs]
        self.n_frames = np.minimum(np.array(frames, np.int64), config.frames or np.iinfo(np.int64).max)
        self._shown = draw_shown(self.jobs, config.report.videos)

    def too_short(self) -> dict[int, Failure]:
        """Jobs without a frame to drive, by number."""
        failed = {}
        for number in np.flatnonzero(self.n_frames < 2).tolist():
            job = self.jobs[number]
            detail = f"{count(int(self.n_frames[number]), 'frame')}; a source and a driving frame are needed"
            failed[number] = Failure(job.title, FailureCode.TOO_SHORT, detail, f"{STAGE}/{job.mode}")
        return failed

    def windows(self) -> Iterator[Window]:
        """The windows of all jobs that are long enough."""
        for number in range(len(self.jobs)):
            if self.n_frames[number] >= 2:
                yield from self._windows_of(number)

    def _windows_of(self, number: int) -> Iterator[Window]:
        frames, is_shown = int(self.n_frames[number]), number in self._shown
        return windows_of(self.jobs[number], number, frames, self._length, shown=is_shown)

    def _with_files(self, totals: Totals) -> Iterator[Window]:
        """The first window of each complete job that has a folder of files."""
        for number in np.flatnonzero(totals.complete).tolist():
            if number in self._shown or self.jobs[number].mode == "mesh":
                yield next(self._windows_of(number))

    def _without_folder(self, out: Location, totals: Totals) -> Iterator[Window]:
        there = {mode: set(dir_names(join(out, CLIPS, mode))) for mode in get_args(Mode)}
        for window in self._with_files(totals):
            if window.job.folder_name not in there[window.job.mode]:
                yield window

    def without_files(self, out: Location, totals: Totals) -> frozenset[int]:
        """Jobs whose windows are there, and whose files are not."""
        lost = []
        for window in self._without_folder(out, totals):
            segments = [] if window.is_whole else dir_names(segments_folder(out, window))
            if len(segments) != count_windows(window.n_frames, self._length):
                lost.append(window.number)
        return frozenset(lost)

    def to_join(self, out: Location, totals: Totals) -> list[Window]:
        """Of each job whose files lie in segments one window."""
        return [window for window in self._without_folder(out, totals) if not window.is_whole]

    def results(self, totals: Totals, failed: Mapping[int, Failure]) -> tuple[ClipResult, ...]:
        """What came of the jobs that are complete and did not fail."""
        means, results = totals.means(), []
        for number in np.flatnonzero(totals.complete).tolist():
            if number in failed:
                continue
            job = self.jobs[number]
            source, driving = self._clips[job.source], self._clips[job.driving]
            results.append(
                ClipResult(
                    *(job, source.person_id, driving.person_id, int(self.n_frames[number]), driving.fps),
                    *(ScoreRow(means[number]), round(float(totals.seconds[number]), 2)),
                    shown=number in self._shown,
                )
            )
        return tuple(results)


# ---- checks ------------------------------------------------------------------------------------------------


def _check(clips: Sequence[ClipInfo], model: Safa, config: EvaluateConfig) -> None:
    """Report what would make every clip fail before anything starts."""
    where = shown(config.clips)
    if not clips:
        raise UserError(f"no clips of split {' or '.join(config.splits)}", where, "Choose other splits.")
    size = model.config.image_size
    other = next((clip for clip in clips if (clip.height, clip.width) != (size, size)), None)
    if other is not None:
        raise UserError(
            f"the clips are {other.width} x {other.height} px, and the model needs {size} x {size}",
            where,
            f"Preprocess with size: {size}.",
        )
    # Loaded here first: a worker that cannot start would end the job with Ray's message instead of ours.
    load_scorers(config.scorers, model.tdmm)
    if "swap" in config.modes:
        load_mask(config.swap, model.tdmm)


def _fingerprint(model: Safa) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _fingerprint_of_clips(store: ClipStore, clips: Sequence[ClipInfo]) -> str:
    """A hash of names and sizes, since reading all frames would cost as much as evaluating them."""
    sizes = [(clip.clip_id, clip.n_frames, store.image_bytes(clip.number)) for clip in clips]
    return hashlib.sha256(json.dumps(sizes).encode()).hexdigest()


def _fingerprint_of_files(config: EvaluateConfig) -> str:
    scorers = config.scorers
    files = (config.animation.csv, config.swap.weights, scorers.landmarks, scorers.identity, scorers.lpips)
    digest = hashlib.sha256()
    for each in (*files, scorers.inception):
        if each is None or not (isinstance(each, Path) or is_uri(each)):  # "model" is no file
            digest.update(b"-")
        else:
            digest.update(_sha256(each))
    return digest.hexdigest()


def _sha256(file: Location) -> bytes:
    with reporting_errors(file):
        return hashlib.sha256(read_bytes(file)).digest()


def _clean_up(out: Location) -> None:
    """Delete incomplete output of a run that was killed."""
    forget_attempts(out)
    for kind in (CLIPS, SEGMENTS):
        folder = join(out, kind)
        for mode in entries(folder) if exists(folder) else ():
            if mode.is_folder:
                remove_leftovers(mode.location)


# ---- the work, on Ray --------------------------------------------------------------------------------------


def operators(config: EvaluateConfig) -> list[Operator]:
    """The graph of these settings. Without GPUs, all stages share their process: one actor a core."""
    scale = config.scale
    if not scale.gpus_per_actor:
        return [Operator(STAGES, SCALE, scale.cpus_per_actor, actors=scale.actors or OPEN)]
    return [
        Operator((READ,), SCALE, scale.cpus_per_task),
        Operator(
            *((MODEL, NETWORKS), SCALE, scale.cpus_per_actor, scale.gpus_per_actor, scale.actors or OPEN),
            rows=WINDOWS_PER_CALL,
        ),
        Operator((SCORE,), SCALE, scale.cpus_per_task),
        Operator((WRITE,), SCALE, scale.cpus_per_task, rows=WINDOWS_PER_PART),
    ]


def all_needs(config: EvaluateConfig) -> list[Need]:
    """What the stages need of the machines, each by itself."""
    return needs("evaluation", operators(config), LESS)


def process(config: EvaluateConfig, windows: Sequence[Window], probe: Probe) -> Iterator[Item]:
    """Send windows through the graph; yield each as it is finished. Logs the progress.

    Args:
        probe: what workers look for before they write.
    """
    if not windows:
        return
    graph = operators(config)
    with room_for(*all_needs(config)), live_stages(STAGE, STAGES) as clock:
        progress, logged = _ClipProgress(windows), 0
        done = _through(config, graph, windows, probe, clock)
        for table in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for item in items_of(table):
                if item.failure is not None and logged < SHOWN:
                    failure = item.failure
                    log.warning(
                        "evaluate: %s quarantined (%s): %s", failure.name, failure.code, failure.detail
                    )
                    logged += 1
                yield item
                progress.add(item)


def join_clips(config: EvaluateConfig, windows: Sequence[Window], probe: Probe) -> Iterator[Item]:
    """Join the segments of long clips, of each of which one window is given."""
    if not windows:
        return
    graph = [Operator((JOIN,), SCALE, config.scale.cpus_per_task)]
    done = _through(config, graph, windows, probe, None)
    for table in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from items_of(table)


def _through(
    config: EvaluateConfig,
    graph: Sequence[Operator],
    windows: Sequence[Window],
    probe: Probe,
    clock: StageClock | None,
) -> ray.data.Dataset:
    config = config.with_absolute_paths()
    graph = with_room(STAGE, graph, len(windows))
    rows = window_rows(windows, max(operator.most for operator in graph))
    for operator in graph:
        rows = applied(operator, rows, ((probe,), WindowRunner, config, operator.stages, clock))
    return rows


class _ClipProgress:
    """Counts clips, of which the last window is finished, in the log and for those who watch the cluster."""

    def __init__(self, windows: Sequence[Window]) -> None:
        self._left = Counter(window.number for window in windows)
        self._codes: dict[int, str] = {}  # of clips with a window that failed
        self._progress = Progress(LogLines(STAGE), len(self._left), "clips")

    def add(self, item: Item) -> None:
        """Count a window."""
        window = item.window
        if item.failure is not None:
            self._codes.setdefault(window.number, item.failure.code)
        else:
            frames_made(STAGE, window.last - window.first)
        self._left[window.number] -= 1
        ended = self._left[window.number] == 0
        if ended:
            clip_finished(STAGE, self._codes.pop(window.number, ""))
        self._progress.add(int(ended), window.last - window.first)


def window_rows(windows: Sequence[Window], actors: int) -> ray.data.Dataset:
    """Windows in blocks so many that all actors end at about the same time, and no more.

    Every block costs the driver some milliseconds, so a long list has blocks of many windows.
    """
    blocks = min(len(windows), max(actors * BLOCKS_PER_ACTOR, len(windows) // WINDOWS_PER_BLOCK), MAX_BLOCKS)
    ends = [len(windows) * number // blocks for number in range(blocks + 1)]
    rows = ray.data.from_arrow([table_of(map(Item, windows[first:last])) for first, last in pairwise(ends)])
    rows.context.target_max_block_size = BLOCK_BYTES
    return rows


# ---- results -----------------------------------------------------------------------------------------------


def _content(
    config: EvaluateConfig,
    model: Safa,
    results: tuple[ClipResult, ...],
    failures: tuple[Failure, ...],
    runs: tuple[TrainingRun, ...],
    seconds: Mapping[str, float],
) -> ReportContent:
    return ReportContent(
        title=config.title,
        results=results,
        failures=failures,
        settings=(*describe_model(model.config), *describe_evaluation(config)),
        runs=runs,
        seconds=seconds,
        versions=versions(),
        config=dump_settings(config),
        skipped=skipped_metrics(config.scorers, model.config.image_size),
    )


def _training_runs(folders: Sequence[Location]) -> tuple[TrainingRun, ...]:
    """The runs that the report shows: one that is not there costs its curves, not the evaluation."""
    runs = []
    for folder in folders:
        if exists(join(folder, TRAINING_CONFIG)):
            runs.append(_training_run(folder))
        else:
            log.warning("evaluate: history: no training run at %s; the report goes without it", shown(folder))
    return tuple(runs)


def _training_run(folder: Location) -> TrainingRun:
    """Settings and metrics of a run folder of ``pipelines/train``."""
    config = load_settings(join(folder, TRAINING_CONFIG), TrainConfig)
    return TrainingRun(config.name, describe_training(config), read_metrics(join(folder, METRICS_FILE)))


def _refuse_too_many(failures: Sequence[Failure], total: int, config: EvaluateConfig) -> None:
    unexpected = sum(failure.code == FailureCode.UNEXPECTED for failure in failures)
    if unexpected > config.max_unexpected * total:
        raise UserError(
            f"{unexpected} of {total} clips failed unexpectedly",
            shown(config.out),
            "Read the reasons in index.html there; the next run tries them again.",
        )


def _send_to_trackers(config: EvaluationKey, step: int, numbers: Mapping[str, Any]) -> None:
    """Send the numbers of the report, at the model's step, to those who follow runs."""
    mirror = LocalMirror(config.out)  # where Weights & Biases has its files
    try:
        tracking = start_tracking(
            *(config.tracking, config.out, mirror.path),
            program=STAGE,
            name=config.title,
            settings=config.model_dump(mode="json"),
        )
        if tracking is not None:
            tracking.log(step, tracked_numbers(numbers))
            tracking.close(finished=True)
            mirror.sync()
    finally:
        mirror.close()


def seconds_so_far(out: Location) -> dict[str, float]:
    """Wall time of earlier finished runs into this folder, as ``evaluate`` takes it."""
    manifest = join(out, MANIFEST)
    if not exists(manifest):
        return {}
    with reporting_errors(manifest):
        return {STAGE: float(json.loads(read_bytes(manifest))["seconds"])}


def compare(runs: Sequence[Location], out: Location) -> None:
    """Put finished evaluations side by side in ``out``; the first one is the baseline.

    Raises:
        UserError: fewer than two folders, or one that is not an evaluation.
    """
    if len(runs) < 2:
        raise UserError(
            "a comparison needs at least two runs", "--compare", "Give the folders of two evaluations."
        )
    with exclusive(out):
        write_comparison([read_run(run) for run in runs], out)
    log.info("comparison: %s", shown(absolute(join(out, PAGE))))


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m pipelines.evaluate``."""
    arguments = sys.argv[1:] if argv is None else argv
    if "--compare" in arguments:
        parser = Parser(
            prog="python -m pipelines.evaluate", description="Put finished evaluations side by side."
        )
        help_text = "folders of evaluations, paths or URIs"
        parser.add_argument("--compare", nargs="+", metavar="RUN", help=help_text)
        parser.add_argument("--out", required=True, help="folder for the page and its numbers")
        options = parser.parse_args(arguments)
        set_up_logging()
        return run_reporting_errors(lambda: compare([*map(location, options.compare)], location(options.out)))

    def body(config: EvaluateConfig) -> None:
        evaluate(config, seconds_so_far(config.out))
        log.info("report: %s", shown(absolute(join(config.out, PAGE))))

    description = "Reconstruct, animate, score, report. To compare runs: --compare RUN RUN ... --out FOLDER."
    return launch("evaluate", description, EvaluateConfig, body, argv, check=check)


if __name__ == "__main__":
    sys.exit(main())
