"""Servers that follow trainings and evaluations: MLflow and Weights & Biases; rank 0, or the driver, sends.

A thread per tracker sends what is logged. One that is down costs the program nothing: rows wait, up to
``MOST_WAITING``, and are sent with the next ones; a line says when it begins, and one at the end how many
rows were lost. The id in ``tracking.json`` of the run folder lets a resumed run continue the tracked one,
whose rows may then have a step twice: the newer one counts.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from safa.config.tracking import MlflowConfig, TrackingConfig, WandbConfig
from safa.errors import UserError
from safa.files import Location, exists, join, read_bytes, reporting_errors, write_json
from safa.messages import INSTALL_TRACKER

log = logging.getLogger(__name__)

ID_FILE = "tracking.json"
MOST_WAITING = 10_000  # rows
CLOSE_WITHIN = 30.0  # seconds, for what waits at the end
MLFLOW_PARAMS, MLFLOW_METRICS = 100, 900  # in one request; MLflow takes 100, and 1000 of all kinds
MLFLOW_VALUE = 500  # characters of a setting, which older servers take
# MLflow's variables, without which a request is tried for minutes; what is set outside counts.
MLFLOW_REQUESTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
# What the extras of pyproject.toml install.
PACKAGES = {"mlflow": ("mlflow", "sqlalchemy", "alembic"), "wandb": ("wandb",)}


@dataclass(frozen=True)
class Numbers:
    """What is sent at once.

    Attributes:
        at: Unix time, in milliseconds.
        values: names, such as ``loss/landmark``, and numbers.
    """

    step: int
    at: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker shows of a run besides its numbers.

    Attributes:
        id: stays the same when the run is resumed.
        program: that runs, ``train`` or ``evaluate``.
        settings: all of them, nested.
        scratch: a local folder for files that wait for an upload.
    """

    id: str
    program: str
    name: str
    settings: Mapping[str, Any]
    scratch: Path


class Tracker(Protocol):
    """One service. Any error means: not now, try again with the next numbers."""

    def send(self, rows: Sequence[Numbers]) -> None:
        """Send rows; the first call makes or finds the tracked run."""

    def end(self, *, finished: bool) -> None:
        """Mark the tracked run as finished, or as stopped before its end."""


# ---- packages and ids --------------------------------------------------------------------------------------


def missing_package(config: TrackingConfig) -> str:
    """The extra that this machine lacks for the trackers of these settings; empty if none."""
    for name in _names(config):
        if any(importlib.util.find_spec(package) is None for package in PACKAGES[name]):
            return name
    return ""


def refuse_missing_package(extra: str) -> None:
    """Raise the line for people, unless the name is empty.

    Raises:
        UserError: the package is not there.
    """
    if extra:
        fix = f"Install it on each machine: {INSTALL_TRACKER[extra]}"
        raise UserError(f"{extra} is not installed", f"tracking.{extra}", fix)


def _names(config: TrackingConfig) -> list[str]:
    return [name for name in PACKAGES if getattr(config, name) is not None]


def tracked_id(folder: Location) -> str:
    """The id under which a run folder is tracked, made when it is first asked for.

    Raises:
        UserError: the file is damaged.
    """
    path = join(folder, ID_FILE)
    with reporting_errors(path):
        if exists(path):
            return str(json.loads(read_bytes(path))["id"])
        made = uuid.uuid4().hex
        write_json(path, {"id": made})
        return made


# ---- sending -----------------------------------------------------------------------------------------------


class Tracking:
    """All trackers of a run."""

    def __init__(self, config: TrackingConfig, run: TrackedRun) -> None:
        makers: dict[str, Any] = {"mlflow": Mlflow, "wandb": Wandb}
        self._senders = [_Sender(name, makers[name](getattr(config, name), run)) for name in _names(config)]

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send numbers, in the background."""
        for sender in self._senders:
            sender.put(Numbers(step, time.time_ns() // 1_000_000, dict(values)))

    def close(self, *, finished: bool) -> None:
        """Wait for what is on its way, half a minute at most.

        Args:
            finished: whether the run came to its end.
        """
        for sender in self._senders:
            sender.close(finished=finished)


def start_tracking(
    config: TrackingConfig,
    folder: Location,
    scratch: Path,
    *,
    program: str,
    name: str,
    settings: Mapping[str, Any],
) -> Tracking | None:
    """The trackers that the settings name; None without any.

    Args:
        folder: of the run, which keeps the id.
        scratch, program, name, settings: see ``TrackedRun``.

    Raises:
        UserError: ``tracking.json`` of the run folder is damaged.
    """
    if not _names(config):
        return None
    return Tracking(config, TrackedRun(tracked_id(folder), program, name, settings, scratch))


class _Sender:
    """Sends rows to one tracker from a thread of its own."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        self._name, self._tracker = name, tracker
        self._queue: queue.SimpleQueue[Numbers | bool] = queue.SimpleQueue()
        self._waiting: deque[Numbers] = deque()
        self._lost, self._failures = 0, 0
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"tracking-{name}")
        self._thread.start()

    def put(self, row: Numbers) -> None:
        """Queue a row."""
        self._queue.put(row)

    def close(self, *, finished: bool) -> None:
        """See ``Tracking``."""
        self._queue.put(finished)
        self._thread.join(CLOSE_WITHIN)
        lost = self._lost + len(self._waiting)
        if lost or self._failures or self._thread.is_alive():
            log.warning(
                "tracking: %s failed %d times; %d rows did not arrive", self._name, self._failures, lost
            )

    def _run(self) -> None:
        ended: bool | None = None
        while ended is None:
            ended = self._collect()
            self._attempt(ended)

    def _collect(self) -> bool | None:
        """Wait for rows, and take all there are. Returns what ``close`` said, if it was called."""
        item = self._queue.get()
        while True:
            if isinstance(item, bool):
                return item
            self._waiting.append(item)
            if len(self._waiting) > MOST_WAITING:
                self._waiting.popleft()
                self._lost += 1
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return None

    def _attempt(self, ended: bool | None) -> None:
        try:
            if self._waiting:
                self._tracker.send(tuple(self._waiting))
                self._waiting.clear()
            if ended is not None:
                self._tracker.end(finished=ended)
        except Exception as error:  # whatever the package raises
            self._failures += 1
            if self._failures == 1:
                reason = next(iter(str(error).splitlines()), "") or type(error).__name__
                log.warning("tracking: %s does not answer (%s); the work continues", self._name, reason[:200])


# ---- services ----------------------------------------------------------------------------------------------


class Mlflow:
    """An MLflow server, or a store in an SQLite file. The run is found again by its tag ``safa.id``."""

    def __init__(self, config: MlflowConfig, run: TrackedRun) -> None:
        self._config, self._run = config, run
        self._client: Any = None
        self._id = ""

    def send(self, rows: Sequence[Numbers]) -> None:
        """See ``Tracker``."""
        if not self._id:
            self._open()
        from mlflow.entities import Metric

        metrics = [Metric(name, each, row.at, row.step) for row in rows for name, each in row.values.items()]
        for first in range(0, len(metrics), MLFLOW_METRICS):
            self._client.log_batch(self._id, metrics=metrics[first : first + MLFLOW_METRICS])

    def end(self, *, finished: bool) -> None:
        """See ``Tracker``."""
        if self._id:
            self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")

    def _open(self) -> None:
        for name, value in MLFLOW_REQUESTS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient  # most of a second, in this thread

        for chatty in ("mlflow", "alembic"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        client = self._client = MlflowClient(self._config.uri)
        found = client.get_experiment_by_name(self._config.experiment)
        experiment = found.experiment_id if found else client.create_experiment(self._config.experiment)
        tag = f"tags.`safa.id` = '{self._run.id}'"
        runs = client.search_runs([experiment], filter_string=tag, max_results=1)
        if runs:
            client.update_run(runs[0].info.run_id, status="RUNNING")
            self._id = runs[0].info.run_id
            return
        tags = {"safa.id": self._run.id, "safa.program": self._run.program}
        made = client.create_run(experiment, run_name=self._run.name, tags=tags).info.run_id
        self._log_settings(made)
        self._id = made

    def _log_settings(self, run_id: str) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)[:MLFLOW_VALUE]) for key, value in flat(self._run.settings)]
        for first in range(0, len(params), MLFLOW_PARAMS):
            self._client.log_batch(run_id, params=params[first : first + MLFLOW_PARAMS])


class Wandb:
    """Weights & Biases; ``WANDB_MODE=offline`` writes into the run folder's ``wandb``, for ``wandb sync``."""

    def __init__(self, config: WandbConfig, run: TrackedRun) -> None:
        self._config, self._run = config, run
        self._handle: Any = None

    def send(self, rows: Sequence[Numbers]) -> None:
        """See ``Tracker``."""
        if self._handle is None:
            self._open()
        for row in rows:
            self._handle.log({"step": row.step, **row.values})

    def end(self, *, finished: bool) -> None:
        """See ``Tracker``."""
        if self._handle is not None:
            self._handle.finish(exit_code=0 if finished else 1)

    def _open(self) -> None:
        import wandb

        settings = wandb.Settings(
            silent=True,
            console="off",  # it would take standard output
            init_timeout=CLOSE_WITHIN,
            login_timeout=5,
            finish_timeout=CLOSE_WITHIN / 2,
            finish_timeout_raises=True,
        )
        self._handle = wandb.init(
            project=self._config.project,
            name=self._run.name,
            id=self._run.id,
            job_type=self._run.program,
            resume="allow",
            dir=str(self._run.scratch),
            config=dict(self._run.settings),
            settings=settings,
        )
        # Its own step may not fall, which that of a resumed run does.
        self._handle.define_metric("*", step_metric="step")


def flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as dotted keys and values."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
