"""The training loop: the same for both stages, on one process or many.

Rank 0 writes all files of the run folder, a path or a URI: ``checkpoints/`` (see ``safa.checkpoint.native``;
they are written in the background), those that ``safa.training.metrics_logger`` names and, at the end,
``model/``. All workers must see the folder: a group that is restarted, on whatever machines and however many,
resumes from the newest state in it.

Randomness of a step comes from (seed, step, rank) and its samples from their numbers, so a resumed run takes
the same steps as one that was never interrupted, bit for bit on one CPU worker.
"""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from safa.checkpoint.native import (
    ModelInfo,
    Progress,
    put_state,
    read_latest_state,
    save_model,
    save_state,
    set_newer_aside,
)
from safa.config.training import TrainConfig
from safa.data.sampler import FrameBatch, PairBatch
from safa.errors import UserError
from safa.files import join, name_of, shown
from safa.models.safa import Safa
from safa.models.tdmm import Tdmm
from safa.training.checkpoint_writer import CheckpointWriter
from safa.training.context import TrainContext
from safa.training.dataloader import TrainingDataLoader
from safa.training.metrics_logger import MetricsLogger
from safa.training.optim import scale_learning_rates
from safa.training.out_of_memory import explain_out_of_memory
from safa.training.stages import NotFiniteError, make_stage
from safa.training.validate import best_metric, held_out_scores, held_out_strip

log = logging.getLogger(__name__)


class InterruptedRun(KeyboardInterrupt):
    """The run was asked to stop, and saved its state first; the message names the step."""


def fit(config: TrainConfig, context: TrainContext) -> Progress:
    """Train until the schedule's end, from the newest state in the run folder if there is one.

    Raises:
        UserError: data that cannot be trained on, weights that do not fit, a loss that is not finite.
        WorkerError: this worker is out of memory, or cannot write a state; the others do not know.
        InterruptedRun: the context asked to stop; the state is saved.
    """
    torch.set_num_threads(config.scale.threads_per_worker)  # Ray and DataLoader preset 1
    torch.manual_seed(config.seed)  # of the first weights
    with explain_out_of_memory(config, context.world_size):
        return _Run(config, context, TrainingDataLoader(config, context)).run()


class _Run:
    """The state of one call of ``fit``."""

    def __init__(self, config: TrainConfig, context: TrainContext, loader: TrainingDataLoader) -> None:
        self._config, self._context, self._loader = config, context, loader
        self._stage = make_stage(config, context)
        self._folder = config.folder
        self._states = join(self._folder, "checkpoints")
        self._metric = best_metric(config.stage)
        self._progress = self._resume()
        self._total = config.schedule.total_steps(
            loader.samples_per_epoch, loader.samples_per_step, self._progress.step, self._progress.samples
        )
        self._logger: MetricsLogger | None = None  # of rank 0
        self._writer = CheckpointWriter(self._states, config.checkpoint.keep, self._metric.key)
        if context.rank == 0:
            self._logger = MetricsLogger(config, self._progress.step)
        self._window = _Window()

    def run(self) -> Progress:
        try:
            self._take_all_steps()
            self._writer.wait()
        finally:
            self._writer.close()
            if self._logger is not None:
                self._logger.close(finished=self._progress.step == self._total)
        self._finish()
        return self._progress

    def _take_all_steps(self) -> None:
        batches = self._loader.batches(self._progress.samples, self._total - self._progress.step)
        self._stage.train_mode()
        done = self._progress
        self._window.restart(done.unlogged if self._context.rank == 0 else None, done.unlogged_steps)
        while self._progress.step < self._total:
            self._take_step(batches)
            step = self._progress.step
            last = step == self._total
            stopping = self._context.stop_requested()
            if step % self._config.log_every == 0 or last:
                self._log()
            validated = self._config.validate_on and (step % self._config.validate_on.every == 0 or last)
            if validated:
                self._validate()
            due = step % self._config.checkpoint.every == 0 or last or stopping
            due = self._context.save_requested() or due
            if due or validated:  # which states are the best rank 0 knows alone, and sums are taken by all
                unlogged, steps = self._window.sums(self._context)
                self._progress = replace(self._progress, unlogged=unlogged, unlogged_steps=steps)
            if due or (validated and step in self._best_steps()):
                self._save()
            if stopping and not last:
                self._writer.wait()
                raise InterruptedRun(f"stopped after step {step} of {self._total}, whose state is saved")

    def _resume(self) -> Progress:
        found = read_latest_state(self._states)
        names = sorted(set(self._context.gather(name_of(found[0]) if found else "no state")))
        if len(names) > 1:  # also a barrier: nobody reads any more when rank 0 renames
            raise UserError(
                f"the workers do not all see the same states ({', '.join(names)})",
                shown(self._states),
                "Every machine must see the run folder.",
            )
        if found is None:
            return Progress()
        newest, stored = found
        if self._context.rank == 0:
            set_newer_aside(self._states, stored.progress.step)
        progress = put_state(stored, self._stage.state, newest)
        log.info("resuming from %s, after %d steps", shown(newest), progress.step)
        return progress

    def _take_step(self, batches: Iterator[FrameBatch | PairBatch]) -> None:
        config, done = self._config, self._progress
        started = time.perf_counter()
        factor = config.schedule.lr_factor(done.step, done.samples, self._loader.samples_per_epoch)
        scale_learning_rates(self._stage.optimisers, factor)
        generator = self._seed(done.step)
        local = [next(batches) for _ in range(config.step.accumulate)]
        moved: list[Any] = [b.to(self._context.device, self._stage.memory_format) for b in local]
        loaded = time.perf_counter()
        try:
            terms = self._stage.step(moved, generator)
        except NotFiniteError as error:
            raise self._explained(error) from None
        seconds = time.perf_counter() - started
        samples = done.samples + self._loader.samples_per_step
        epoch = samples // self._loader.samples_per_epoch
        self._progress = Progress(done.step + 1, samples, epoch, done.seconds + seconds)
        if self._stage.ema is not None:
            self._stage.ema.update(self._progress.step)
        self._window.add(terms, factor, waited=loaded - started, seconds=seconds)

    def _seed(self, step: int) -> torch.Generator:
        """Seed dropout (the global generator) and the step's own generator."""
        sequence = np.random.SeedSequence((self._config.seed, step, self._context.rank))
        seeds = sequence.generate_state(2, np.uint64)
        torch.manual_seed(int(seeds[0]))
        return torch.Generator().manual_seed(int(seeds[1] >> np.uint64(1)))

    def _log(self) -> None:
        done, loader = self._progress, self._loader
        row = self._window.row(self._context)
        rate = row.steps_per_second
        total = sum(row.losses.values())
        epoch = done.samples / loader.samples_per_epoch
        left = datetime.timedelta(seconds=round((self._total - done.step) / rate))
        if self._logger is not None:
            losses = "  ".join(f"{name} {value:.4g}" for name, value in row.losses.items())
            log.info(
                "step %d/%d  epoch %.2f  %.2f steps/s  %.1f samples/s  ETA %s  total %.4g  %s",
                done.step, self._total, epoch, rate, rate * loader.samples_per_step, left, total, losses,
            )  # fmt: skip
            self._logger.log_training(done.step, {"epoch": epoch} | vars(row))
        rates = {"steps_per_second": rate, "data_share": row.data_share}
        self._context.report(
            {"step": done.step, "checkpoint_seconds": self._writer.waited, **rates, **row.losses}
        )
        self._window.restart()

    def _validate(self) -> None:
        model = self._stage.inference_model
        assert isinstance(model, Safa | Tdmm)
        started = time.perf_counter()
        scores = held_out_scores(model, self._loader.held_out, self._context)
        if self._logger is not None:
            strip = held_out_strip(model, self._loader.held_out[0], self._context.device)
            shown = "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
            log.info("step %d/%d  held out: %s", self._progress.step, self._total, shown)
            seconds = time.perf_counter() - started
            self._logger.log_validation(self._progress.step, scores, seconds, strip)
        self._stage.train_mode()

    def _best_steps(self) -> dict[int, float]:
        """Validated steps whose states are kept, and their scores; rank 0's matter."""
        if self._logger is None:
            return {}
        return self._logger.best_steps(self._metric, self._config.checkpoint.keep_best)

    def _save(self) -> None:
        if self._logger is None:
            return
        self._logger.flush()
        # Metrics first: whoever resumes from this state finds the rows of all steps before it.
        metrics = partial(self._logger.publish, draw=self._progress.step == self._total)
        best = self._best_steps()
        self._writer.save(self._stage.state, self._progress, self._info(), best, before=metrics)
        log.info("step %d/%d  saving the state in %s", self._progress.step, self._total, shown(self._states))

    def _finish(self) -> None:
        if self._logger is not None:
            save_model(join(self._folder, "model"), self._stage.inference_model, self._info())
        self._context.sum(torch.zeros(1))  # nobody leaves before the model is there

    def _info(self) -> ModelInfo:
        config = self._config
        return ModelInfo(
            config.stage.kind, config.model, self._progress.step, config.name, self._loader.trained_on
        )

    def _explained(self, error: NotFiniteError) -> UserError:
        # Not among the checkpoints: BatchNorm statistics may include the bad batch. A new start resumes from
        # the last good state.
        kept = join(self._folder, "failed")
        if self._logger is not None:
            save_state(kept, self._stage.state, self._progress, self._info())
        step = self._progress.step + 1
        return UserError(
            f"the loss is not finite in step {step} ({error.details})",
            shown(self._folder),
            f"Look at these clips, or lower the learning rate. The state is saved in {shown(kept)}.",
        )


@dataclass(frozen=True)
class _Row:
    """A training row of ``metrics.jsonl``, less the step; ``data_share`` is the time spent on data."""

    losses: dict[str, float]
    lr_factor: float
    steps_per_second: float
    data_share: float


class _Window:
    """Sums since the last log line, kept on the device so that no step waits for a transfer.

    They have 64 bits: so many float32 numbers add up without rounding, in whatever order a run that was
    interrupted adds them.
    """

    def restart(self, before: Mapping[str, float] | None = None, steps_before: int = 0) -> None:
        """Reset the sums, or begin with those of a run that ended between two lines.

        Args:
            before: sums of all workers; None on all but one of them.
            steps_before: of all workers that are in these sums.
        """
        self._before, self._steps_before = dict(before or {}), steps_before
        self._terms: dict[str, Tensor] = {}
        self._steps, self._factor, self._waited, self._seconds = 0, 1.0, 0.0, 0.0

    def add(self, terms: dict[str, Tensor], factor: float, *, waited: float, seconds: float) -> None:
        """Add one step."""
        for name, value in terms.items():
            self._terms[name] = self._terms.get(name, 0.0) + value.double()
        self._steps += 1
        self._factor = factor
        self._waited += waited
        self._seconds += seconds

    def sums(self, context: TrainContext) -> tuple[dict[str, float], int]:
        """Sums of the losses over the window and the group, and the steps that are in them."""
        if not self._terms:
            return {}, 0
        own = [value + self._before.get(name, 0.0) for name, value in self._terms.items()]
        sums = context.sum(torch.stack(own)).tolist()
        steps = self._steps * context.world_size + self._steps_before
        return dict(zip(self._terms, sums, strict=True)), steps

    def row(self, context: TrainContext) -> _Row:
        """Compute the means over the window and the group."""
        sums, steps = self.sums(context)
        return _Row(
            {name: value / steps for name, value in sums.items()},
            self._factor,
            self._steps / self._seconds,
            self._waited / self._seconds,
        )
