"""Train a stage: ``python -m pipelines.train --config configs/pretrain.yaml``, then ``configs/train.yaml``.

``scale.num_workers: 0`` trains in this process. From 1 on, Ray Train starts that many workers (``auto``: as
many as the machines are good for); one data-parallel wrapper per network averages their gradients. With
``scale.min_workers`` a run that lost machines continues with fewer, and adds more when they come. The run
folder is ``runs/NAME``: settings, versions, metrics, curves, checkpoints, and at the end ``model/`` and the
manifest. A run resumes from its newest checkpoint; a finished one is left alone.

Rank 0 writes checkpoints straight into the run folder, in the background, and does not hand them to
``ray.train.report``. The folder must be shared by all nodes either way (Ray's ``storage_path`` has the same
need), and one way to resume serves the local loop, a worker group that Ray restarts after a lost node, and a
new job on another number of workers. Ray gets the metrics only. Each start has a name of its own in Ray
Train, since Ray would continue an older run of the same name.

SIGTERM (``ray job stop`` sends it to this program) and SIGINT save the state of the step at hand, on Ray too:
the driver tells the workers. A notice that a machine is about to be taken away saves a state as well, and
training continues until Ray starts the group again.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.actor_pool import machines
from pipelines.controller import ShortGoodbye
from pipelines.launch import launch, ray_session, set_up_logging
from pipelines.lease import exclusive
from pipelines.machines import Need, gpus_to_come, room_for
from pipelines.ray_metrics import training_row
from pipelines.run_folder import (
    CONFIG,
    LOCK,
    MANIFEST,
    VERSIONS,
    check_settings,
    record_settings,
    versions,
    write_manifest,
)
from pipelines.shared_folder import FIX, shared
from safa.checkpoint.native import holds_checkpoint, read_model_weights
from safa.config import parse_settings
from safa.config.training import FullStage, HeadStage, ScaleConfig, TrainConfig
from safa.cores import LEAST_OF_A_WORKER, SHARE_OF_A_CORE, Machine, Workers, workers_of, workers_on_gpus
from safa.errors import Terminated, UserError
from safa.files import (
    Location,
    absolute,
    delete,
    delete_dir,
    dir_names,
    exists,
    filesystem,
    is_uri,
    join,
    missing,
    shown,
    write_json,
)
from safa.messages import count
from safa.training.context import GroupContext, LocalContext, StopSignals, WorkerError
from safa.training.dataloader import check_clips
from safa.training.loop import InterruptedRun, fit
from safa.training.metrics_logger import FILE_NAME
from safa.training.trackers import ID_FILE, missing_package, refuse_missing_package

log = logging.getLogger(__name__)

# Settings that may change when a run is resumed.
NOT_HASHED = frozenset({"scale", "tracking", "data.stage_to", "data.stage_gb"})
LOOK_EVERY = 3.0  # seconds between looks at whether a worker that was asked to stop is still there
LOOKS_PER_NOTICE = 5  # asking Ray for notices is a barrier; they come half a minute or more in advance


class StopNotice:
    """An actor through which the driver asks the workers to stop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._worker: Any = None

    async def wait(self, worker: Any) -> None:
        """Return once ``send`` was called; ``worker`` is the actor that waits, of the newest group."""
        self._worker = worker
        await self._event.wait()

    async def send(self) -> list[Any]:
        """Ask them. Returns the worker that waited for it last; none if there never was one."""
        self._event.set()
        return [] if self._worker is None else [self._worker]


class RayContext(GroupContext):
    """A Ray Train worker, in Ray's process group.

    Args:
        notice: a ``StopNotice``. Rank 0 alone has a call open to it, so that a look costs no message.
        run: the name of the run, for those who watch the cluster.
    """

    def __init__(self, notice: Any, run: str) -> None:
        super().__init__(get_device())
        self._run = run
        self._stop = notice.wait.remote(_this_actor()) if self.rank == 0 else None
        self._looks = 0
        self._leaving: frozenset[str] = frozenset()  # nodes whose notice has led to a state

    def report(self, metrics: Mapping[str, float]) -> None:
        """See ``TrainContext``. ``ray.train.report`` is a barrier: all ranks call it equally often."""
        training_row(self._run, self.rank, metrics)
        ray.train.report(dict(metrics))

    def _asked_to_stop(self) -> bool:
        if self._stop is None or not ray.wait([self._stop], timeout=0)[0]:
            return False
        try:
            ray.get(self._stop)
        except ray.exceptions.RayActorError:  # lost with its machine: nobody asks through it any more
            self._stop = None
            return False
        return True

    def _machine_goes(self) -> bool:
        self._looks += 1
        if self._looks % LOOKS_PER_NOTICE:
            return False
        info = ray.train.get_preemption_info()
        nodes = frozenset(info.preempted_node_to_ranks) if info is not None else frozenset()
        if nodes <= self._leaving:
            return False
        if self.rank == 0:
            log.warning("machines will be taken away (%s): saving the state", ", ".join(sorted(nodes)))
        self._leaving |= nodes
        return True


def train(config: TrainConfig) -> Location:
    """Train, or resume training, until the schedule's end. Returns the run folder.

    Raises:
        UserError: the folder holds a run of other settings, another program works in it, or a machine does
            not see it; or see ``safa.training.loop.fit``.
    """
    with exclusive(config.folder):
        return _train(config)


def _train(config: TrainConfig) -> Location:
    began, folder = time.monotonic(), config.folder
    had_config = exists(join(folder, CONFIG))
    if _is_finished(config):
        log.info("%s: already finished, nothing to do", shown(folder))
        return folder
    record_settings(folder, config, NOT_HASHED)
    write_json(join(folder, VERSIONS), versions())  # of this start; the manifest has those of the last one
    try:
        signals = train_locally(config) if config.scale.num_workers == 0 else train_on_ray(config)
    except UserError:
        if not _has_output(folder):
            remove_start(folder, keep_config=had_config)
        raise
    _, info = read_model_weights(join(folder, "model"))
    write_manifest(folder, config, {"steps": info.step}, time.monotonic() - began)
    log.info("%s: finished after %d steps", shown(folder), info.step)
    # One that came after the last step: whoever called this must end all the same.
    if signals.number is not None:
        raise _stopped(signals, "asked to stop when the training had just ended")
    return folder


def check(config: TrainConfig) -> str:
    """Look at settings and inputs, without Ray and without writing. Returns what was seen.

    Raises:
        UserError: as ``train``, as far as that can be seen before any work.
    """
    if _is_finished(config):
        return f"{shown(config.folder)} is finished already"
    return f"data set, run folder and stage '{config.stage.kind}'"


def _is_finished(config: TrainConfig) -> bool:
    """Whether the run of these settings is at its end; one that is not has what it needs.

    Raises:
        UserError: the folder holds a run of other settings, or the run would fail on every worker.
    """
    worth_keeping = _has_output(config.folder)
    if worth_keeping:
        check_settings(config.folder, config, NOT_HASHED)
    if exists(join(config.folder, MANIFEST)):
        return True
    check_clips(config)  # here, where an error is one line, and not on a worker
    if not worth_keeping:
        _check_init(config.stage)
    refuse_missing_package(missing_package(config.tracking))
    return False


def _check_init(stage: HeadStage | FullStage) -> None:
    """Refuse a start from a model that is not there, before machines are asked for."""
    if isinstance(stage, FullStage) and stage.init is not None and not holds_checkpoint(stage.init):
        fix = "Give a run folder, its model/ or a checkpoint: the first stage makes one."
        raise UserError(missing(stage.init, "no model or checkpoint here"), shown(stage.init), fix)


def _has_output(folder: Location) -> bool:
    """Whether a start has left anything that other settings must not mix with: a state, or a model."""
    return any(exists(join(folder, name)) for name in (MANIFEST, "model", "failed")) or any(
        "step-" in name for name in dir_names(join(folder, "checkpoints"))
    )


def remove_start(folder: Location, *, keep_config: bool) -> None:
    """Remove what a start has written that came to nothing, so that the corrected command finds no trace.

    Args:
        keep_config: leave ``config.yaml``, which was there before and may be what ``--config`` names.
    """
    for name in (LOCK, VERSIONS, FILE_NAME, ID_FILE, *(() if keep_config else (CONFIG,))):
        delete(join(folder, name))
    for name in ("ray", "tensorboard", "wandb", "checkpoints"):
        delete_dir(join(folder, name))
    if not is_uri(folder):
        with suppress(OSError):  # somebody's files are in there
            Path(folder).rmdir()


def train_locally(config: TrainConfig) -> StopSignals:
    """Train in this process. The first interrupt ends the run after the current step and saves the state.

    Returns:
        The signals; one that came after the last step is in there.

    Raises:
        KeyboardInterrupt: it was stopped; ``Terminated`` if by SIGTERM.
    """
    context = LocalContext(use_gpu=config.scale.use_gpu)
    with context.signals.listening():
        try:
            fit(config, context)
        except InterruptedRun as stopped:
            raise _stopped(context.signals, str(stopped)) from None
    return context.signals


def _stopped(signals: StopSignals, message: str) -> KeyboardInterrupt:
    return Terminated(message) if signals.number == signal.SIGTERM else InterruptedRun(message)


def train_on_ray(config: TrainConfig) -> StopSignals:
    """Train with Ray Train, on this job's cluster or on a local one for the time of the training.

    The first interrupt asks the workers to end after the current step and to save the state; a second one
    ends them where they are.

    Returns:
        As ``train_locally``.

    Raises:
        KeyboardInterrupt: it was stopped; ``Terminated`` if by SIGTERM.
    """
    with ray_session():
        to_come = Machine(0, gpus_to_come())
        return _on_ray(with_workers(config, [*machines(), to_come]))


def with_workers(config: TrainConfig, there: Sequence[Machine]) -> TrainConfig:
    """The settings with a number of workers, where they leave it to the machines; the log says which."""
    scale, total = config.scale, config.data.batch_total
    if scale.num_workers != "auto" or total is None:
        return config
    least = LEAST_OF_A_WORKER[config.stage.kind]
    if scale.use_gpu:
        chosen = Workers(
            workers_on_gpus(there, total, least),
            scale.cpus_per_worker,
            scale.threads_per_worker,
        )
    else:
        chosen = workers_of(there, total, least)
    log.info(
        "%s: %s of %s, %d samples each",
        *(config.name, count(chosen.count, "worker"), count(chosen.threads, "thread")),
        total // chosen.count,
    )
    numbers = {"num_workers": chosen.count, "cpus_per_worker": chosen.cpus}
    scale = scale.model_copy(update={**numbers, "threads_per_worker": chosen.threads})
    return config.model_copy(update={"scale": scale})


def _on_ray(config: TrainConfig) -> StopSignals:
    """Train with Ray Train in the session that is open."""
    scale, signals = config.scale, StopSignals()
    store, path = filesystem(absolute(join(config.folder, "ray")))
    with (
        room_for(_need(scale)),
        shared(config.folder) as probe,
        signals.listening(),
    ):
        notice = _start_notice()
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "settings": config.with_absolute_paths().model_dump(mode="json"),
                "notice": notice,
                "probe": probe,
            },
            torch_config=TorchConfig(backend="nccl" if scale.use_gpu else "gloo"),
            scaling_config=scaling(scale),
            run_config=RunConfig(
                name=f"start-{time.time_ns()}",
                storage_path=path,
                storage_filesystem=store,
                worker_runtime_env={"env_vars": _thread_settings(config)},
                failure_config=FailureConfig(max_failures=scale.max_failures),
                callbacks=[ShortGoodbye()],
                logging_config=LoggingConfig(log_level="WARNING"),  # the loop has its own line of progress
            ),
        )
        try:
            ended = _fit(trainer, notice, signals)
        except WorkerGroupError as error:
            explained = [e for e in error.worker_failures.values() if isinstance(e, WorkerError)]
            if not explained:
                raise
            raise explained[0] from None
    if "error" in ended:
        raise UserError(*ended["error"])
    if "stopped" in ended:
        raise _stopped(signals, ended["stopped"])
    return signals


def _start_notice() -> Any:
    """Start a ``StopNotice`` on this machine, where it lives as long as the driver."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(StopNotice).remote()


def _fit(trainer: TorchTrainer, notice: Any, signals: StopSignals) -> dict[str, Any]:
    """Run the trainer and pass a request to stop on to its workers. Returns how rank 0 ended (``_worker``).

    The trainer runs in a thread: in the main one it would handle SIGINT itself, by ending the workers.
    """
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(trainer.fit().return_value)
        except BaseException as error:  # raised again in the main thread
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive() and signals.number is None:
        thread.join(0.2)
    if thread.is_alive():
        log.warning("asking the workers to save their state and end")
        _ask_to_stop(thread, notice, signals)
    (result,) = results
    if isinstance(result, BaseException):
        raise result
    ended: dict[str, Any] = result or {}
    return ended


def _ask_to_stop(thread: threading.Thread, notice: Any, signals: StopSignals) -> None:
    """Send the notice, and return when the trainer has ended.

    Raises:
        KeyboardInterrupt: there are no workers to save anything: none has begun, or those that had are lost
            and others wait for machines.
    """
    lost: list[Any] = []
    while thread.is_alive():
        workers = ray.get(notice.send.remote())
        if not workers:
            raise _stopped(signals, "stopped before the first step")
        if _is_alive(workers[0]):
            lost = []
        elif lost == workers:
            raise _stopped(signals, "stopped while the workers were started again; the newest state stays")
        else:
            lost = workers
        thread.join(LOOK_EVERY)


def _is_alive(actor: Any) -> bool:
    try:
        ray.get(actor.__ray_ready__.remote(), timeout=LOOK_EVERY)
    except ray.exceptions.GetTimeoutError:  # it is busy
        return True
    except ray.exceptions.RayActorError:
        return False
    return True


def _this_actor() -> Any:
    return ray.get_runtime_context().current_actor


def all_needs(config: TrainConfig) -> list[Need]:
    """What a training needs of the machines; of one that takes what is there, a single worker."""
    scale = config.scale
    if scale.num_workers == "auto":
        scale = scale.model_copy(update={"num_workers": 1})
        if not scale.use_gpu:  # it takes as much of a core as there is
            scale = scale.model_copy(update={"cpus_per_worker": SHARE_OF_A_CORE})
    return [_need(scale)] if scale.num_workers else []


def _need(scale: ScaleConfig) -> Need:
    """The fewest workers with which the training starts."""
    each = {"CPU": scale.cpus_per_worker, "GPU": float(scale.use_gpu)}
    fix = "Lower scale.num_workers or scale.cpus_per_worker, or use more or larger machines."
    if scale.use_gpu:
        fix = "Lower scale.num_workers, set scale.use_gpu=false, or use machines with more GPUs."
    return Need("training", each, "scale", fix, scale.min_workers or _number(scale))


def _number(scale: ScaleConfig) -> int:
    assert scale.num_workers != "auto", "with_workers has chosen a number"
    return scale.num_workers


def scaling(scale: ScaleConfig) -> ScalingConfig:
    """What the run requests from Ray Train.

    A range of workers is elastic: Ray checks every minute whether their number should change, and if so
    restarts the group, which resumes from the newest checkpoint.
    """
    workers = _number(scale)
    return ScalingConfig(
        num_workers=workers if scale.min_workers is None else (scale.min_workers, workers),
        use_gpu=scale.use_gpu,
        resources_per_worker={"CPU": scale.cpus_per_worker} | ({"GPU": 1.0} if scale.use_gpu else {}),
    )


def _worker(arguments: dict[str, Any]) -> dict[str, Any]:
    """The main function of one worker. Returns how it ended.

    A ``UserError`` that all workers have is returned (``error``), not raised: Ray would only try again. So is
    an end on request (``stopped``). What one worker alone has, such as full memory, is raised, so that Ray
    ends the others, which wait for it.
    """
    set_up_logging()
    # Ray Train logs every report outside its own package; only our lines are worth reading.
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("safa").setLevel(logging.INFO)
    config = parse_settings(arguments["settings"], TrainConfig, "settings")
    context = RayContext(arguments["notice"], config.name)
    unseen = [text for text in context.gather(arguments["probe"].complaint()) if text]
    if unseen:
        return {"error": (unseen[0], "", FIX)}
    missing = [extra for extra in context.gather(missing_package(config.tracking)) if extra]
    try:
        refuse_missing_package(missing[0] if missing else "")
        fit(config, context)
    except WorkerError:
        raise
    except UserError as error:
        return {"error": (error.what, error.where, error.fix)}
    except InterruptedRun as stopped:
        return {"stopped": str(stopped)}
    return {}


def _thread_settings(config: TrainConfig) -> dict[str, str]:
    """Environment of a worker: the threads that the settings ask for, none of which waits by spinning.

    Threads that spin at every barrier take the CPU from those they wait for as soon as anything else runs on
    the machine: a step was 4 to 6 times slower on two busy cores, and 20 % faster on two idle ones. Workers
    of one thread each lose neither.
    """
    return {"OMP_NUM_THREADS": str(config.scale.threads_per_worker), "OMP_WAIT_POLICY": "PASSIVE"}


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m pipelines.train``."""

    def body(config: TrainConfig) -> None:
        train(config)

    return launch("train", "Train a stage of the model.", TrainConfig, body, argv, check=check)


if __name__ == "__main__":
    sys.exit(main())
