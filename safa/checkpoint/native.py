"""Checkpoints: what a run needs to resume, and what inference needs.

A training state is a folder, ``checkpoints/step-00001000/``:

- ``networks.safetensors``: every network, names ``<network>/<parameter or buffer>``;
- ``average.safetensors``: the exponential moving average (EMA) of the model, where the run keeps one;
- ``optimisers.safetensors``: Adam's moments, names ``<network>/<parameter>/<moment>``;
- ``state.json``: step, samples consumed, sizes of the networks, settings of the optimisers, versions.

Beside them, ``best.json`` names the states with the best held-out scores among those that are kept.

That is the whole state: random numbers are drawn from (seed, step, rank), the data order from the sample
number, and learning rates from the schedule.

A model for inference is ``model/``: ``weights.safetensors`` and ``model.json`` (sizes of the networks). The
3D head's arrays are buffers of the 3DMM, so nothing else is needed to run it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.overrides import TorchFunctionMode

from safa.config import ModelConfig, parse_settings
from safa.config.model import HeadConfig
from safa.errors import UserError
from safa.files import (
    Location,
    atomic_dir,
    delete_dir,
    dir_names,
    exists,
    is_file,
    join,
    local_dir,
    missing,
    name_of,
    remove_leftovers,
    rename_dir,
    shown,
    write_json,
)
from safa.head import load_head_assets
from safa.head.assets import HeadAssets
from safa.head.raster import available_rasterizer
from safa.models.generator import Generator
from safa.models.keypoints import KeypointDetector
from safa.models.safa import Safa
from safa.models.tdmm import HeadEncoder
from safa.reading import boundary, read_json
from safa.weights import (
    check_finite,
    check_weights,
    load_weights,
    read_tensors,
    strip_prefix,
    trained_parameters,
    write_tensors,
)

log = logging.getLogger(__name__)

FORMAT = 1  # of the JSON files here
STATE_FILE = "state.json"
BEST_FILE = "best.json"
MODEL_FILE = "model.json"
_NETWORKS, _EMA, _OPTIMISERS, _WEIGHTS = (  # the name "average" stays, so that older states can be read
    f"{name}.safetensors" for name in ("networks", "average", "optimisers", "weights")
)
_PREFIX = "step-"
_NAME = re.compile(f"{_PREFIX}[0-9]{{1,18}}")


@dataclass(frozen=True)
class Progress:
    """How far a run is: optimiser steps, samples of all workers, whole epochs, seconds of training.

    ``unlogged`` are sums of the losses of all workers since the last row of the metrics, and
    ``unlogged_steps`` the steps of all workers that are in them: the next row is a mean over these, too.
    """

    step: int = 0
    samples: int = 0
    epoch: int = 0
    seconds: float = 0.0
    unlogged: Mapping[str, float] = field(default_factory=dict)
    unlogged_steps: int = 0


@dataclass(frozen=True)
class ModelInfo:
    """What was trained: the stage (``head``: the 3DMM alone, ``full``), sizes, how long, by which run.

    ``trained_on`` is ``synthetic`` where all people are those of ``safa.synthetic``, else empty.
    """

    stage: str
    config: ModelConfig
    step: int
    run: str
    trained_on: str = ""


@dataclass(frozen=True)
class TrainState:
    """Everything that training changes, by name of the network; ``ema`` is None where no average is kept."""

    networks: Mapping[str, nn.Module]
    optimisers: Mapping[str, Adam]
    ema: nn.Module | None


@dataclass(frozen=True)
class StoredState:
    """A training state as it lies on disk: plain tensors, no modules.

    Attributes:
        networks: for each network, its state dict.
        ema: state dict of the averaged inference model.
        moments: for each network, ``<parameter>/<moment>`` (``step``, ``exp_avg``, ``exp_avg_sq``).
        optimisers: for each network, the settings of its optimiser's one parameter group, plain data.
        progress, info: see there.
    """

    networks: Mapping[str, Mapping[str, Tensor]]
    ema: Mapping[str, Tensor] | None
    moments: Mapping[str, Mapping[str, Tensor]]
    optimisers: Mapping[str, Mapping[str, Any]]
    progress: Progress
    info: ModelInfo


# ---- training states ---------------------------------------------------------------------------------------


def save_state(root: Location, state: TrainState, progress: Progress, info: ModelInfo) -> Location:
    """Write the state as a new folder under ``root``, atomically."""
    return write_stored_state(root, stored_state(state, progress, info))


def stored_state(state: TrainState, progress: Progress, info: ModelInfo) -> StoredState:
    """The state as plain tensors: those of the networks and optimisers themselves, not copies."""
    moments = {name: _moments(adam, state.networks[name]) for name, adam in state.optimisers.items()}
    settings = {name: _plain_settings(adam) for name, adam in state.optimisers.items()}
    networks = {name: network.state_dict() for name, network in state.networks.items()}
    ema = None if state.ema is None else state.ema.state_dict()
    return StoredState(networks, ema, moments, settings, progress, info)


def write_stored_state(root: Location, stored: StoredState) -> Location:
    """Write the state as a new folder under ``root``, atomically."""
    folder = join(root, f"{_PREFIX}{stored.progress.step:08d}")
    write_state(folder, stored)
    return folder


def load_state(folder: Location, state: TrainState) -> Progress:
    """Put a saved state into networks and optimisers of the same sizes.

    Raises:
        UserError: a file is missing or damaged, or does not fit.
    """
    return put_state(read_state(folder), state, folder)


def put_state(stored: StoredState, state: TrainState, folder: Location) -> Progress:
    """Put a state that was read into networks and optimisers of the same sizes.

    Args:
        folder: where it was read, for errors.

    Raises:
        UserError: it does not fit.
    """
    for name, network in state.networks.items():
        load_weights(network, stored.networks.get(name, {}), f"{shown(folder)}, network {name}")
    if state.ema is not None:
        load_weights(state.ema, stored.ema or {}, f"{shown(folder)}, averaged model")
    for name, adam in state.optimisers.items():
        _set_moments(adam, state.networks[name], stored.moments.get(name, {}))
    return stored.progress


def write_state(folder: Location, stored: StoredState) -> None:
    """Write ``folder``, atomically."""
    with atomic_dir(folder) as temporary:
        write_tensors(temporary / _NETWORKS, _joined(stored.networks))
        if stored.ema is not None:
            write_tensors(temporary / _EMA, stored.ema)
        write_tensors(temporary / _OPTIMISERS, _joined(stored.moments))
        record = _described(stored.info) | vars(stored.progress) | {"optimisers": dict(stored.optimisers)}
        _write_record(temporary / STATE_FILE, record)


def read_state(folder: Location, *, listed: bool = True) -> StoredState:
    """Read what ``write_state`` wrote.

    Args:
        listed: as for ``safa.files.local_dir``.

    Raises:
        UserError: a file is missing or damaged.
    """
    with local_dir(folder, listed=listed) as path:
        return _read_state(path)


def _read_state(folder: Path) -> StoredState:
    record = _read_record(folder / STATE_FILE)
    ema = folder / _EMA
    try:
        return StoredState(
            networks=_separated(read_tensors(folder / _NETWORKS)),
            ema=read_tensors(ema) if ema.is_file() else None,
            moments=_separated(read_tensors(folder / _OPTIMISERS)),
            optimisers=record["optimisers"],
            progress=_progress(record, folder / STATE_FILE),
            info=_info(record, folder / STATE_FILE),
        )
    except KeyError as error:
        raise _damaged(folder / STATE_FILE, f"{error} is missing") from None


def _progress(record: Mapping[str, Any], path: Path) -> Progress:
    unlogged = record.get("unlogged", {})  # states of older versions have none
    if not isinstance(unlogged, dict) or not all(isinstance(each, int | float) for each in unlogged.values()):
        raise _damaged(path, "'unlogged' has no numbers by names")
    steps = record.get("unlogged_steps", 0)
    if type(steps) is not int or steps < 0:
        raise _damaged(path, "'unlogged_steps' is no number of steps")
    return Progress(
        *(record["step"], record["samples"], record["epoch"], record["seconds"]),
        unlogged=unlogged,
        unlogged_steps=steps,
    )


def latest_state(root: Location) -> Location | None:
    """Find the newest state under ``root``; None if there is none yet."""
    states = _states(root)
    return states[-1] if states else None


def read_latest_state(root: Location) -> tuple[Location, StoredState] | None:
    """Read the newest state under ``root`` that is not damaged; None if there is no state at all.

    A damaged one is named in the log, with the one before it that is taken instead.

    Raises:
        UserError: there are states, and none of them can be read.
    """
    return _first_readable(reversed(_states(root)))


def _first_readable(folders: Iterable[Location]) -> tuple[Location, StoredState] | None:
    errors: list[tuple[Location, UserError]] = []
    for folder in folders:
        try:
            stored = read_state(folder)
        except UserError as error:
            errors.append((folder, error))
            continue
        for damaged, reason in errors:
            log.warning("%s is damaged (%s), %s is taken instead", shown(damaged), reason.what, shown(folder))
        return folder, stored
    if errors:
        raise errors[0][1]
    return None


def set_newer_aside(root: Location, step: int) -> None:
    """Rename the states after ``step``, which are damaged, so that nothing takes them for the newest."""
    for folder in _states(root):
        if _step(folder) > step:
            rename_dir(folder, f"damaged-{name_of(folder)}")


def keep_states(root: Location, newest: int, best: Mapping[int, float], score: str) -> None:
    """Delete all states but the ``newest`` last ones and the best ones; delete half-written ones too.

    Args:
        best: held-out scores by step, of the steps whose states stay; ``best.json`` lists them.
        score: name of the metric.
    """
    for folder in _states(root)[:-newest]:
        if _step(folder) not in best:
            delete_dir(folder)
    remove_leftovers(root)
    kept = {name_of(folder): best[_step(folder)] for folder in _states(root) if _step(folder) in best}
    if kept:
        _write_record(join(root, BEST_FILE), {"score": score, "states": kept})


def _states(root: Location) -> list[Location]:
    names = dir_names(root)
    return [join(root, name) for name in names if _NAME.fullmatch(name)]


def _step(folder: Location) -> int:
    return int(name_of(folder).removeprefix(_PREFIX))


def _moments(adam: Adam, network: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}/{moment}": value
        for name, parameter in trained_parameters(network).items()
        for moment, value in adam.state[parameter].items()
    }


def _set_moments(adam: Adam, network: nn.Module, moments: Mapping[str, Tensor]) -> None:
    """The saved values bit for bit, each in the memory layout of its parameter."""
    for name, parameter in trained_parameters(network).items():
        counter_device = parameter.device if adam.defaults["fused"] else torch.device("cpu")
        adam.state[parameter] = {
            moment: value.to(counter_device) if moment == "step" else torch.empty_like(parameter).copy_(value)
            for moment, value in strip_prefix(moments, f"{name}/").items()
        }


def _plain_settings(adam: Adam) -> dict[str, Any]:
    """Learning rate, betas and so on, as torch names them."""
    (group,) = adam.param_groups
    return {key: value for key, value in group.items() if key != "params"}


def _joined(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{part}/{name}": value for part, tensors in parts.items() for name, value in tensors.items()}


def _separated(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts = dict.fromkeys(name.partition("/")[0] for name in tensors)
    return {part: strip_prefix(tensors, f"{part}/") for part in parts}


# ---- models for inference ----------------------------------------------------------------------------------


def save_model(folder: Location, model: nn.Module, info: ModelInfo) -> None:
    """Write a trained ``Safa``, or ``Tdmm`` after the head stage; a folder from before is replaced."""
    prefix = "tdmm." if info.stage == "head" else ""
    with atomic_dir(folder) as temporary:
        write_tensors(temporary / _WEIGHTS, {prefix + k: v for k, v in model.state_dict().items()})
        _write_record(temporary / MODEL_FILE, _described(info))


def pack_model(folder: Location, model: Safa, info: ModelInfo) -> None:
    """Write a model without its 3D head, which is built anew when it is loaded: less than half of the bytes.

    Raises:
        UserError: its head is not the built-in one.
    """
    own = HeadAssets.from_state_dict(model.tdmm.state_dict())
    if info.config.head.assets is not None or not _is_built_in(own, info.config.head):
        fix = "Copy the model's folder as it is."
        raise UserError("the 3D head is not the built-in one, so it cannot be left out", "the model", fix)
    with atomic_dir(folder) as temporary:
        learned = {name: value for name, value in model.state_dict().items() if not _is_of_head(name)}
        write_tensors(temporary / _WEIGHTS, learned)
        _write_record(temporary / MODEL_FILE, _described(info))


def _is_built_in(head: HeadAssets, config: HeadConfig) -> bool:
    built_in = load_head_assets(config.model_copy(update={"assets": None}))
    pairs = [(head.v_template, built_in.v_template), (head.shapedirs, built_in.shapedirs)]
    return all(one.shape == other.shape and torch.equal(one, other) for one, other in pairs)


def _is_of_head(name: str) -> bool:
    """Whether a weight is an array of the 3D head, which training leaves alone."""
    return name.startswith("tdmm.") and not name.startswith("tdmm.encoder.")


def load_model(
    path: Location, device: str | torch.device = "cpu", rasterizer: str = "auto"
) -> tuple[Safa, ModelInfo]:
    """Load a trained model, ready for inference (eval mode).

    Args:
        path: a run folder, its ``model/``, or one of its checkpoints.
        rasterizer: as for ``safa.head.raster.available_rasterizer``. Where it is not the one of the training,
            though that was meant, the log says so.

    Raises:
        UserError: nothing to load there, damaged, or only the head stage was trained; there is no such
            rasteriser here.
    """
    weights, info = read_model_weights(path)
    if info.stage != "full":
        raise UserError("holds the 3DMM alone", shown(path), "Train the full stage and give its folder.")
    check_finite(weights, shown(path))
    trained_with = info.config.head.rasterizer
    chosen = available_rasterizer(rasterizer, trained_with)
    if rasterizer == "auto" and chosen != trained_with:
        what = "trained with the rasteriser of PyTorch3D, which is not installed here; ours draws the same"
        log.warning("%s: %s", shown(path), what)
    config = info.config.with_rasterizer(chosen)
    packed = config.head.assets is None and not any(_is_of_head(name) for name in weights)
    head = strip_prefix(weights, "tdmm.")
    _check_sizes(config, weights, shown(path))
    assets = load_head_assets(config.head) if packed else HeadAssets.from_state_dict(head)
    with _Undrawn():  # every weight is read, so none is drawn before: half a second
        model = Safa(config, assets)
    if packed:
        weights |= {name: value for name, value in model.state_dict().items() if _is_of_head(name)}
    load_weights(model, weights, shown(path))
    return model.to(device).eval(), info


class _Undrawn(TorchFunctionMode):
    """No random numbers are drawn for weights; on the meta device the first ones import sympy, for a second.

    Other functions that would are those of small fixed tensors, which the networks make on the CPU.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        if func is nn.init.kaiming_uniform_:  # passed on as a whole, with its arguments by name
            return (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _check_sizes(config: ModelConfig, weights: Mapping[str, Tensor], where: str) -> None:
    """Compare the learned weights with the networks of these sizes before memory is taken for them.

    Raises:
        UserError: as ``check_weights``.
    """
    with _Undrawn(), torch.device("meta"), boundary(where, "its settings make no network"):  # shapes alone
        networks = {
            "kp_detector.": KeypointDetector(config),
            "generator.": Generator(config),
            "tdmm.encoder.": HeadEncoder(config.head, config.image_size),
        }
    expected = {
        prefix + name: value for prefix, net in networks.items() for name, value in net.state_dict().items()
    }
    learned = {name: value for name, value in weights.items() if not _is_of_head(name)}
    check_weights(expected, learned, where)


def stage_of_model(file: Path) -> str | None:
    """Return the stage that a ``model.json`` names; None if it cannot be read."""
    try:
        stage = _read_record(file).get("stage")
    except UserError:
        return None
    return stage if isinstance(stage, str) else None


def holds_checkpoint(folder: Location) -> bool:
    """Whether ``load_model`` would find something in this very folder."""
    names = ((MODEL_FILE,), ("model", MODEL_FILE), (STATE_FILE,))
    if any(is_file(join(folder, *parts)) for parts in names):
        return True
    return any(
        name.startswith(_PREFIX) and is_file(join(root, name, STATE_FILE))
        for root in (join(folder, "checkpoints"), folder)
        for name in dir_names(root)
    )


def read_model_weights(path: Location) -> tuple[dict[str, Tensor], ModelInfo]:
    """Read the weights that inference uses, each name with its network's prefix (``tdmm.`` etc.).

    Of several checkpoints it is the newest that is not damaged (``read_latest_state``).

    Args:
        path: as for ``load_model``.

    Raises:
        UserError: as ``load_model``.
    """
    for folder in (join(path, "model"), path):  # in a store, the run folder has a model.json too: its list
        if is_file(join(folder, MODEL_FILE)):
            with local_dir(folder, listed=False) as local:
                record = _read_record(local / MODEL_FILE)
                return read_tensors(local / _WEIGHTS), _info(record, local / MODEL_FILE)
    if is_file(join(path, STATE_FILE)):
        stored = read_state(path, listed=False)
        return _inference_part(stored), stored.info
    for root in (join(path, "checkpoints"), path):
        found = read_latest_state(root)
        if found is not None:
            return _inference_part(found[1]), found[1].info
    what = "no model or checkpoint here" if exists(path) else missing(path, "there is no such file or folder")
    raise UserError(what, shown(path), "Give a run folder, its model/ or a checkpoint.")


def _inference_part(stored: StoredState) -> dict[str, Tensor]:
    """The EMA if there is one, else all networks but the discriminator."""
    if stored.ema is not None:
        prefix = "tdmm." if stored.info.stage == "head" else ""
        return {prefix + name: value for name, value in stored.ema.items()}
    return {
        f"{network}.{name}": value
        for network, tensors in stored.networks.items()
        if network != "discriminator"
        for name, value in tensors.items()
    }


def _described(info: ModelInfo) -> dict[str, Any]:
    return {
        "stage": info.stage,
        "run": info.run,
        "step": info.step,
        "trained_on": info.trained_on,
        "model": info.config.model_dump(mode="json"),
        "versions": {name: metadata.version(name) for name in ("torch", "safetensors")},
    }


def _info(record: Mapping[str, Any], where: Path) -> ModelInfo:
    try:
        config = parse_settings(record["model"], ModelConfig, str(where))
        trained_on = record.get("trained_on", "")  # runs before 2026-11-26 do not say
        stage, step, run = record["stage"], record["step"], record["run"]
        if stage not in ("head", "full") or type(step) is not int or step < 0:
            raise _damaged(where, "a stage or a step that is none")
        if not isinstance(run, str) or not isinstance(trained_on, str):
            raise _damaged(where, "a name that is none")
        return ModelInfo(stage, config, step, run, trained_on)
    except KeyError as error:
        raise _damaged(where, f"{error} is missing") from None


def _write_record(path: Location, record: Mapping[str, Any]) -> None:
    write_json(path, {"format": FORMAT} | dict(record))


def _read_record(path: Path) -> dict[str, Any]:
    """Read what ``_write_record`` wrote.

    Raises:
        UserError: no such file, damaged, or of another format.
    """
    try:
        record = read_json(path)
    except UserError as error:
        raise _damaged(path, error.what) from None
    if record.get("format") != FORMAT:
        raise UserError(f"is not in checkpoint format {FORMAT}", str(path), "Use another checkpoint.")
    return record


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(f"cannot be read ({reason})", str(path), "Use another checkpoint.")
