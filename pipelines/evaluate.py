"""Evaluation: reconstruct and animate held-out clips, score them, write a report.

Run it as ``python -m pipelines.evaluate --config configs/evaluate.yaml``.

Writes into ``out``:
    index.html                    the report; opens from disk
    metrics.json                  its numbers: means over clips, with intervals
    clips.parquet, frames.parquet scores of every clip, and of every frame
    clips/<mode>/<clip>/          video, strip, scores, meshes of one clip
    quarantine/failures.parquet   one row for each clip that could not be evaluated, with its reason
``python -m pipelines.evaluate --compare RUN RUN ... --out FOLDER`` puts finished evaluations side by side.
docs/evaluation.md defines the metrics.
Actors of Ray Data keep the model loaded and take a few clips at a time. A clip's folder is written
atomically, so a stopped run loses only the clips in progress; the next run does what is missing, and tries
failures again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray.data

from pipelines.actor_pool import pool_for
from pipelines.launch import launch, ray_session, set_up_logging
from pipelines.lease import exclusive
from pipelines.machines import Need, room_for
from pipelines.quarantine import SHOWN, counts_line, quarantine_row, write_quarantine
from pipelines.run_folder import (
    MANIFEST,
    check_counts,
    check_settings,
    record_settings,
    refuse_nothing,
    versions,
    write_manifest,
)
from pipelines.shared_folder import Checked, Probe, shared
from pipelines.stages import Evaluator, clip_folder, failure_in
from pipelines.worker_deaths import forget_attempts
from safa.checkpoint.native import load_model
from safa.config import dump_settings, load_settings
from safa.config.inference import EvaluateConfig, EvaluateScale
from safa.config.training import TrainConfig
from safa.data.clip_store import ClipInfo, ClipStore
from safa.errors import Failure, FailureCode, UserError, run_reporting_errors
from safa.evaluation.clip_evaluator import FRAMES, ClipResult, read_result
from safa.evaluation.frame_scores import FRAMES_SCHEMA, fid_of_clips
from safa.evaluation.jobs import EvaluationJob, list_jobs
from safa.evaluation.scorers import load_scorers, skipped_metrics
from safa.files import (
    Location,
    absolute,
    atomic_file,
    entries,
    exists,
    is_uri,
    join,
    local_file,
    location,
    read_bytes,
    remove_leftovers,
    reporting_errors,
    shown,
    write_json,
)
from safa.inference.swap_mask import load_mask
from safa.messages import LogLines, Progress
from safa.models.safa import Safa
from safa.report.compare import read_run, write_comparison
from safa.report.content import ReportContent, TrainingRun, metrics_json, write_clips
from safa.report.describe import describe_evaluation, describe_model, describe_training
from safa.report.page import CLIPS, write_page
from safa.training.metrics_logger import FILE_NAME as METRICS_FILE
from safa.training.metrics_logger import read_metrics

log = logging.getLogger(__name__)

STAGE = "evaluate"
PAGE, NUMBERS = "index.html", "metrics.json"
ALL_CLIPS, ALL_FRAMES = "clips.parquet", "frames.parquet"
BLOCKS_PER_ACTOR = 8
CLIPS_PER_BLOCK = 32  # on long lists
CLIPS_PER_CALL = 8  # of an actor
MAX_BLOCKS = 4096
# What may change between two runs into one folder.
NOT_HASHED = frozenset({"title", "history", "max_unexpected", "scale"})


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
    store = ClipStore(config.clips)
    clips = [clip for clip in store.clips() if clip.split in config.splits]
    model, info = load_model(config.model)
    _check(clips, model, config)
    jobs = list_jobs(clips, config)
    hashes = {
        "model_sha256": _fingerprint(model),
        "clips_sha256": _fingerprint_of_clips(store, clips),
        "files_sha256": _fingerprint_of_files(config),
    }
    locked = EvaluationKey.model_validate({**dict(config), **hashes})
    with exclusive(config.out):
        check_settings(config.out, locked, NOT_HASHED)
        record_settings(config.out, locked, NOT_HASHED, config)
        _clean_up(join(config.out, CLIPS))
        forget_attempts(config.out)
        missing = [job for job in jobs if read_result(clip_folder(config.out, job)) is None]
        log.info("evaluate: %d clips, %d still to do, into %s", len(jobs), len(missing), shown(config.out))
        with ray_session(), shared(config.out) as probe:
            failures = tuple(f for f in process(config, missing, probe) if f is not None)
        results = _results(config.out, jobs)
        _check_counts(config, jobs, results, failures)
        # The failures of this run alone, since it tried those of earlier ones again.
        rows = [*map(quarantine_row, failures)]
        write_quarantine(join(config.out, "quarantine", "failures.parquet"), rows)
        _write_frames(config.out, results)
        spent = seconds.get(STAGE, 0.0) + time.monotonic() - began
        write_clips(join(config.out, ALL_CLIPS), results, CLIPS)
        content = _content(config, model, results, failures, {**seconds, STAGE: spent})
        content = replace(content, hashes=hashes, fid=_fid(config, results), step=info.step)
        numbers = metrics_json(content)
        write_page(content, join(config.out, PAGE))
        write_json(join(config.out, NUMBERS), numbers)
        write_manifest(config.out, locked, numbers["counts"], spent)
        reasons = Counter(str(failure.code) for failure in failures)
        log.info("evaluate: %s", counts_line(numbers["counts"], reasons))
        _refuse_too_many(failures, len(jobs), config)
        refuse_nothing(numbers["counts"], config.out)
        return numbers


def _check_counts(
    config: EvaluateConfig,
    jobs: Sequence[EvaluationJob],
    results: Sequence[ClipResult],
    failures: Sequence[Failure],
) -> None:
    """Refuse to report on less than what was asked for: every job has a result on disk or a reason."""
    known = {(_stage_of(result.job), result.job.title) for result in results}
    known |= {(failure.stage, failure.name) for failure in failures}
    pending = sum((_stage_of(job), job.title) not in known for job in jobs)
    counts = {"in": len(jobs), "ok": len(results), "quarantined": len(failures), "pending": pending}
    check_counts(counts, config.out)


def _stage_of(job: EvaluationJob) -> str:
    return f"{STAGE}/{job.mode}"


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


def _clean_up(clips: Location) -> None:
    """Delete incomplete output of a run that was killed."""
    for mode in entries(clips) if exists(clips) else ():
        if mode.is_folder:
            remove_leftovers(mode.location)


# ---- the work, on Ray --------------------------------------------------------------------------------------


def process(config: EvaluateConfig, jobs: Sequence[EvaluationJob], probe: Probe) -> Iterator[Failure | None]:
    """Do the jobs on Ray; yield for each as it is finished its failure, or None. Logs the progress.

    Args:
        probe: what workers look for before they write.
    """
    if not jobs:
        return
    scale = config.scale
    resources = (scale.cpus_per_actor, scale.gpus_per_actor)
    with room_for(_need(scale)):
        pool = pool_for(STAGE, *resources, scale.actors, len(jobs))
        done = job_rows(jobs, pool.most).map_batches(
            Checked,
            fn_constructor_args=((probe,), Evaluator, config.with_absolute_paths()),
            batch_size=CLIPS_PER_CALL,
            batch_format="pyarrow",
            **pool.ray_options,
        )
        progress = Progress(LogLines(STAGE), len(jobs), "clips")
        logged = 0
        for batch in done.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in batch.to_pylist():
                failure = failure_in(row, _stage_of(EvaluationJob.from_json(row["job"])))
                if failure is not None and logged < SHOWN:
                    log.warning(
                        "evaluate: %s quarantined (%s): %s", failure.name, failure.code, failure.detail
                    )
                    logged += 1
                yield failure
                progress.add(1, row["n_frames"])


def _need(scale: EvaluateScale) -> Need:
    """One actor must have its GPUs; its CPUs may be fewer than asked for."""
    fix = "Ask for less with scale.gpus_per_actor, or run on machines that have it."
    return Need("evaluation", {"GPU": scale.gpus_per_actor}, "scale", fix)


def job_rows(jobs: Sequence[EvaluationJob], actors: int) -> ray.data.Dataset:
    """Rows ``{job}`` in blocks so many that all actors end at about the same time, and no more.

    Every block costs the driver some milliseconds, so a long list has blocks of many clips; an actor takes
    ``CLIPS_PER_CALL`` of them at a time.
    """
    blocks = min(len(jobs), max(actors * BLOCKS_PER_ACTOR, len(jobs) // CLIPS_PER_BLOCK), MAX_BLOCKS)
    ends = [len(jobs) * number // blocks for number in range(blocks + 1)]
    return ray.data.from_arrow(
        [pa.table({"job": [job.to_json() for job in jobs[first:last]]}) for first, last in pairwise(ends)]
    )


# ---- results -----------------------------------------------------------------------------------------------


def _results(out: Location, jobs: Sequence[EvaluationJob]) -> tuple[ClipResult, ...]:
    """The results that are there, which are what counts."""
    results = (read_result(clip_folder(out, job)) for job in jobs)
    return tuple(result for result in results if result is not None)


def _write_frames(out: Location, results: Sequence[ClipResult]) -> None:
    """Write the scores of all frames into one file, a row group per clip."""
    with (
        atomic_file(join(out, ALL_FRAMES)) as temporary,
        pq.ParquetWriter(temporary, FRAMES_SCHEMA) as writer,
    ):
        for result in results:
            where = join(clip_folder(out, result.job), FRAMES)
            if exists(where):
                with local_file(where) as path:
                    writer.write_table(pq.read_table(path))


def _content(
    config: EvaluateConfig,
    model: Safa,
    results: tuple[ClipResult, ...],
    failures: tuple[Failure, ...],
    seconds: Mapping[str, float],
) -> ReportContent:
    return ReportContent(
        title=config.title,
        results=results,
        failures=failures,
        settings=(*describe_model(model.config), *describe_evaluation(config)),
        runs=tuple(_training_run(folder) for folder in config.history),
        seconds=seconds,
        versions=versions(),
        config=dump_settings(config),
        skipped=skipped_metrics(config.scorers, model.config.image_size),
    )


def _fid(config: EvaluateConfig, results: Sequence[ClipResult]) -> tuple[float, float]:
    reconstructed = [result.job for result in results if result.job.mode == "reconstruction"]
    return fid_of_clips([clip_folder(config.out, job) for job in reconstructed])


def _training_run(folder: Location) -> TrainingRun:
    """Settings and metrics of a run folder of ``pipelines/train``."""
    config = load_settings(join(folder, "config.yaml"), TrainConfig)
    return TrainingRun(config.name, describe_training(config), read_metrics(join(folder, METRICS_FILE)))


def _refuse_too_many(failures: Sequence[Failure], total: int, config: EvaluateConfig) -> None:
    unexpected = sum(failure.code == FailureCode.UNEXPECTED for failure in failures)
    if unexpected > config.max_unexpected * total:
        raise UserError(
            f"{unexpected} of {total} clips failed unexpectedly",
            shown(config.out),
            "Read the reasons in index.html there; the next run tries them again.",
        )


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
        parser = argparse.ArgumentParser(
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
    return launch("evaluate", description, EvaluateConfig, body, argv)


if __name__ == "__main__":
    sys.exit(main())
