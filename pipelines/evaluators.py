"""The actors that evaluate clips, and the Ray Data graph they work in."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray.data
import torch

from safa.config import Settings
from safa.config.inference import EvaluateConfig
from safa.data.schema import Code, Refused
from safa.data.store import ClipStore
from safa.inference.animator import Animator
from safa.inference.evaluation import ClipEvaluator
from safa.inference.jobs import EvaluationJob
from safa.inference.swap import load_mask
from safa.metrics.networks import load_judges
from safa.report.content import Failure
from safa.report.page import CLIPS
from safa.training.checkpoint import load_model

log = logging.getLogger(__name__)

MOST_DEATHS = 2  # of workers at one clip; after that the clip is given up
LOG_EVERY = 5.0  # seconds
STREAM_CACHE = 16 * 2**20  # bytes of encoded frames; clips are read once, from start to end

Row = dict[str, Any]


class Evaluator:
    """An actor: holds the model, evaluates clips. A failure is a status, never an exception."""

    def __init__(self, config: EvaluateConfig) -> None:
        torch.set_num_threads(config.scale.threads_per_actor)  # Ray presets 1
        device = "cuda" if config.scale.gpus_per_actor > 0 else "cpu"
        model, _ = load_model(config.model, device)
        self._evaluator = ClipEvaluator(
            Animator(model, device, config.scale.batch_size),
            ClipStore(config.clips, cache_bytes=STREAM_CACHE),
            config,
            load_judges(config.scorers, model.tdmm, device),
            load_mask(config.swap, model.tdmm, device) if "swap" in config.modes else None,
        )
        self._out = config.out

    def __call__(self, row: Row) -> Row:
        """Row ``{job}`` to ``{job, code, detail, n_frames}``; an empty code means that the clip is there."""
        job = EvaluationJob.from_json(row["job"])
        folder = clip_folder(self._out, job)
        try:
            with _attempt(folder):
                result = self._evaluator.run(job, folder)
        except Refused as refusal:
            return row | _status(refusal.code, refusal.detail)
        except Exception as error:  # one bad clip must never stop a run: it becomes a row instead
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(frame.filename).name}:{frame.lineno}"
            return row | _status(Code.UNEXPECTED, f"{type(error).__name__} at {place}: {error}")
        return row | _status("", "", result.n_frames)


def clip_folder(out: Path, job: EvaluationJob) -> Path:
    """Where the files of one job appear."""
    return out / CLIPS / job.mode / job.folder_name


def process(config: EvaluateConfig, jobs: Sequence[EvaluationJob]) -> Iterator[Failure | None]:
    """Do the jobs; a failure or None for each as it is finished, with a line of progress now and then."""
    if not jobs:
        return
    scale = config.scale
    rows = [{"job": job.to_json()} for job in jobs]
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Evaluator,
        fn_constructor_args=(_with_whole_paths(config),),
        compute=ray.data.ActorPoolStrategy(size=min(scale.actors, len(rows))),
        num_cpus=scale.cpus_per_actor,
        num_gpus=scale.gpus_per_actor or None,
    )
    began = last = time.monotonic()
    frames = 0
    for count, row in enumerate(done.iter_rows(), start=1):
        job = EvaluationJob.from_json(row["job"])
        frames += row["n_frames"]
        if row["code"]:
            log.warning("evaluate: %s refused (%s): %s", job.title, row["code"], row["detail"])
        yield Failure(job.mode, job.title, row["code"], row["detail"]) if row["code"] else None
        now = time.monotonic()
        if now - last > LOG_EVERY or count == len(jobs):
            last = now
            left = (len(jobs) - count) * (now - began) / count
            log.info(
                "evaluate: %d/%d clips, %.1f frames/s, %.0f s to go",
                *(count, len(jobs), frames / (now - began), left),
            )


def _with_whole_paths(config: EvaluateConfig) -> EvaluateConfig:
    """Workers may have another working directory than this process."""
    whole: EvaluateConfig = _resolved(config)
    return whole


def _resolved(settings: Any) -> Any:
    """Settings with every path in them, however deep, made absolute."""
    changes: dict[str, Any] = {}
    for name, value in dict(settings).items():
        if isinstance(value, Path):
            changes[name] = value.resolve()
        elif isinstance(value, Settings):
            changes[name] = _resolved(value)
    return settings.model_copy(update=changes)


def _status(code: str, detail: str, n_frames: int = 0) -> Row:
    return {"code": str(code), "detail": " ".join(detail.split())[:500], "n_frames": n_frames}


@contextmanager
def _attempt(folder: Path) -> Iterator[None]:
    """Leave a mark while a clip is at work; if workers have died at it again and again, give it up.

    Ray starts a dead worker anew and hands it the same clip, without end.
    """
    mark = folder.with_name(f".{folder.name}.attempts")
    deaths = mark.stat().st_size if mark.exists() else 0
    if deaths >= MOST_DEATHS:
        raise Refused(Code.UNEXPECTED, f"{deaths} workers died at this clip")
    mark.parent.mkdir(parents=True, exist_ok=True)
    with mark.open("ab") as file:
        file.write(b".")
    try:
        yield
    finally:  # whatever happened, this worker has lived through it
        mark.unlink()
