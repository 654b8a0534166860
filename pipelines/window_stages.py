"""The stages of evaluation, as Ray Data runs them on workers: read, model, networks, score, write, join.

Rows are windows on their way. A row has the window and, between two processes, what the stage before made of
it; an input that cannot be used travels on as a failure. Stages that share a process hand over objects.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import torch

from pipelines import packed
from pipelines.stage_clock import StageClock
from pipelines.worker_deaths import Attempts
from safa.checkpoint.native import load_model
from safa.config.inference import EvaluateConfig
from safa.data.clip_store import ClipStore
from safa.errors import ClipError, Failure, FailureCode
from safa.evaluation.clip_files import join_segments, write_files
from safa.evaluation.frame_scores import NetworkScorer
from safa.evaluation.parts import windows_in, write_part
from safa.evaluation.scorers import load_scorers
from safa.evaluation.window_stages import (
    FrameReader,
    ScoredWindow,
    WindowModel,
    WindowNetworks,
    WindowScorer,
)
from safa.evaluation.windows import Window, count_windows
from safa.inference.device_choice import choose_precision
from safa.inference.model_runner import ModelRunner
from safa.inference.swap_mask import load_mask
from safa.models.tdmm import Tdmm

log = logging.getLogger(__name__)

READ, MODEL, NETWORKS, SCORE, WRITE = STAGES = ("read", "model", "networks", "score", "write")
JOIN = "join"  # of the windows of long clips, when all are there
PART_SECONDS = 30.0  # of work in a part, which is what a worker that dies can lose


@dataclass(frozen=True)
class Item:
    """A window on its way.

    Attributes:
        made: what the stage before made of it; None at first, and when it is done.
        failure: why it cannot be evaluated; None if it can.
    """

    window: Window
    made: Any = None
    failure: Failure | None = None


# ---- what a worker keeps -----------------------------------------------------------------------------------


class Tools:
    """Loads what stages need, each once for a process."""

    def __init__(self, config: EvaluateConfig) -> None:
        torch.set_num_threads(config.scale.threads_per_actor)  # Ray presets 1
        self._config = config
        self._device = "cuda" if config.scale.gpus_per_actor > 0 else "cpu"

    @cached_property
    def reader(self) -> FrameReader:
        """Reads windows."""
        return FrameReader(ClipStore(self._config.clips), self._config)

    @property
    def model(self) -> WindowModel:
        """Runs the model."""
        return self._loaded[0]

    @cached_property
    def _loaded(self) -> tuple[WindowModel, Tdmm]:
        """What runs the model, and its 3DMM in float32."""
        config, device = self._config, self._device
        precision = choose_precision(config.precision, torch.device(device))
        if precision.note:
            log.info("%s", precision.note)
        network, _ = load_model(config.model, device, config.rasterizer)
        mask = load_mask(config.swap, network.tdmm, device) if "swap" in config.modes else None
        runner = ModelRunner(network, device, config.scale.batch_size, precision.dtype)
        return WindowModel(runner, config, mask), network.tdmm

    @cached_property
    def networks(self) -> WindowNetworks:
        """Runs the networks that score; the model's own 3DMM may be one of them."""
        config, device = self._config, self._device
        scorers = load_scorers(config.scorers, self._loaded[1], device)
        return WindowNetworks(NetworkScorer(scorers, device, config.scale.batch_size))

    @cached_property
    def scorer(self) -> WindowScorer:
        """Scores without networks."""
        return WindowScorer(self._config)

    def stage(self, name: str) -> Callable[[Any], Any]:
        """What one stage does with one window."""
        stages = {READ: "reader", MODEL: "model", NETWORKS: "networks", SCORE: "scorer"}
        found: Callable[[Any], Any] = getattr(self, stages[name])
        return found


# ---- in one process ----------------------------------------------------------------------------------------


class WindowRunner:
    """Runs neighbouring stages on a block of windows, one after the other in this process, for Ray Data.

    Where a worker died at a block, its windows are handled one by one; one at which workers died again and
    again becomes a failure. What former attempts at the block have written is not made again.

    Args:
        names: of the stages, in order: a run of ``STAGES``, or ``JOIN`` alone.
    """

    def __init__(self, config: EvaluateConfig, names: Sequence[str], clock: StageClock | None = None) -> None:
        self._config, self._names, self._clock = config, tuple(names), clock
        self._attempts = Attempts(config.out)
        self._tools = self._make_tools(config)

    def _make_tools(self, config: EvaluateConfig) -> Tools:
        return Tools(config)

    def __call__(self, block: pa.Table) -> Iterator[pa.Table]:
        """A table of the first stage's input to tables of the last one's output."""
        for items in self._batches(items_of(block)):
            yield table_of(items)
        if self._clock is not None:
            self._clock.send()

    def _batches(self, items: Sequence[Item]) -> Iterator[list[Item]]:
        failed = [item for item in items if item.failure is not None]
        if failed:
            yield failed
        work = [item for item in items if item.failure is None]
        if len(work) < 2:
            for item in work:
                yield from self._alone(item)
            return
        name = self._name(work)
        with self._attempts.mark(name) as deaths:
            if deaths == 0:
                yield from self._run(work, name)
                return
        for item in work:
            yield from self._alone(item)

    def _alone(self, item: Item) -> Iterator[list[Item]]:
        name = self._name([item])
        with self._attempts.mark(name) as deaths:
            try:
                self._attempts.give_up_after(deaths)
            except ClipError as error:
                yield [_failed(item, error)]
                return
            yield from self._run([item], name)

    def _name(self, items: Sequence[Item]) -> str:
        """Of a block: the same in every attempt at it."""
        windows = [(item.window.number, item.window.first, item.window.last) for item in items]
        return f"{self._names[0]}/{json.dumps(windows)}"

    def _run(self, items: Sequence[Item], name: str) -> Iterator[list[Item]]:
        if self._names[-1] != WRITE:
            for item in items:
                yield [self._passed(item, self._names)]
            return
        yield from self._written(items, name)

    def _written(self, items: Sequence[Item], name: str) -> Iterator[list[Item]]:
        """Items through all stages into parts; one is closed after ``PART_SECONDS``, and at the end."""
        there: set[tuple[int, int]] = set()
        number = 0
        while (found := windows_in(self._config.out, part_name(name, number))) is not None:
            there, number = there | found, number + 1
        ended = [Item(item.window) for item in items if (item.window.number, item.window.index) in there]
        if ended:
            yield ended
        left = [item for item in items if (item.window.number, item.window.index) not in there]
        waiting: list[Item] = []
        opened = time.monotonic()
        for item in left:
            waiting.append(self._passed(item, self._names[:-1]))
            if time.monotonic() - opened > PART_SECONDS:
                yield self._close(waiting, part_name(name, number))
                waiting, number, opened = [], number + 1, time.monotonic()
        if waiting:
            yield self._close(waiting, part_name(name, number))

    def _close(self, items: Sequence[Item], name: str) -> list[Item]:
        """Write a part of these windows; those that failed are not in it."""
        began = time.monotonic()
        done: list[ScoredWindow] = []
        outcomes: list[Item] = []
        for item in items:
            try:
                if item.failure is None:
                    write_files(self._config.out, item.window, item.made.files)
                    done.append(item.made)
                outcomes.append(Item(item.window, failure=item.failure))
            except ClipError as error:
                outcomes.append(_failed(item, error))
        if done:
            write_part(self._config.out, name, done)
        self._count(WRITE, len(items), time.monotonic() - began)
        return outcomes

    def _passed(self, item: Item, names: Iterable[str]) -> Item:
        """One window through these stages."""
        if item.failure is not None:
            return item
        made = item.made if item.made is not None else item.window
        for name in names:
            began = time.monotonic()
            try:
                made = self._do(name, made)
            except Exception as error:
                return _failed(item, error)
            finally:
                self._count(name, 1, time.monotonic() - began)
        return Item(item.window, made)

    def _do(self, name: str, made: Any) -> Any:
        if name == JOIN:
            count = count_windows(made.n_frames, self._config.scale.window)
            join_segments(self._config.out, made, count, self._config.visuals)
            return None
        return self._tools.stage(name)(made)

    def _count(self, stage: str, windows: int, seconds: float) -> None:
        if self._clock is not None:
            self._clock.count(stage, windows, seconds)


def _failed(item: Item, error: Exception) -> Item:
    job = item.window.job
    return Item(item.window, failure=Failure.of(job.title, error, f"evaluate/{job.mode}"))


def part_name(block: str, number: int) -> str:
    """The name of a block's part, the same in every attempt at the block."""
    return hashlib.sha256(f"{block}/{number}".encode()).hexdigest()[:32]


# ---- rows --------------------------------------------------------------------------------------------------

ITEM_SCHEMA = pa.schema(
    [
        ("window", pa.string()),
        ("made", packed.TYPE),  # by one of our processes for another; null at first and last
        ("code", pa.string()),  # of a failure
        ("detail", pa.string()),
    ]
)


def table_of(items: Iterable[Item]) -> pa.Table:
    """Items as a table."""
    items = list(items)
    columns = {
        "window": [item.window.to_json() for item in items],
        "made": packed.column_of([None if item.made is None else packed.packed(item.made) for item in items]),
        "code": ["" if item.failure is None else str(item.failure.code) for item in items],
        "detail": ["" if item.failure is None else item.failure.detail for item in items],
    }
    return pa.table(columns, schema=ITEM_SCHEMA)


def items_of(table: pa.Table) -> list[Item]:
    """What ``table_of`` made a table of."""
    rows = table.drop_columns("made").to_pylist()
    return [_item(row, made) for row, made in zip(rows, packed.buffers_of(table["made"]), strict=True)]


def _item(row: dict[str, Any], made: pa.Buffer | None) -> Item:
    window = Window.from_json(row["window"])
    if row["code"]:
        stage = f"evaluate/{window.job.mode}"
        return Item(window, failure=Failure(window.job.title, FailureCode(row["code"]), row["detail"], stage))
    return Item(window, None if made is None else packed.unpacked(made))
