"""Checkpoints: folders of safetensors and JSON, written whole or not at all. No pickle anywhere.

A training state is ``checkpoints/step-00001000/``:

- ``networks.safetensors``: every network, names ``<network>/<parameter or buffer>``;
- ``average.safetensors``: the averaged model, where the run keeps one;
- ``optimisers.safetensors``: Adam's moments, names ``<network>/<parameter>/<moment>``;
- ``state.json``: step, samples consumed, settings, versions.

That is the whole state: random numbers are drawn from (seed, step, rank), the data order from the sample
number, and learning rates from the schedule.

A model for inference is ``model/``: ``weights.safetensors`` and ``model.json`` (sizes of the networks). The
3D head's arrays are buffers of the 3DMM, so nothing else is needed to run it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Adam

from safa.config import ModelConfig, parse_settings
from safa.errors import UserError
from safa.head.assets import HeadAssets
from safa.models.safa import Safa
from safa.training.optim import trained_parameters

FORMAT = 1
STATE_FILE = "state.json"
MODEL_FILE = "model.json"
_NETWORKS, _AVERAGE, _OPTIMISERS, _WEIGHTS = (
    f"{name}.safetensors" for name in ("networks", "average", "optimisers", "weights")
)
_PREFIX = "step-"


@dataclass(frozen=True)
class Progress:
    """How far a run is: optimiser steps done, samples consumed by all workers, seconds spent training."""

    step: int = 0
    samples: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class TrainState:
    """Everything that training changes, by name of the network. ``average`` is None without an average."""

    networks: Mapping[str, nn.Module]
    optimisers: Mapping[str, Adam]
    average: nn.Module | None


@dataclass(frozen=True)
class ModelInfo:
    """What ``model.json`` says: the stage that was trained, the networks' sizes, how long, by which run."""

    stage: str
    config: ModelConfig
    step: int
    run: str


# ---- training states ---------------------------------------------------------------------------------------


def save_state(root: Path, state: TrainState, progress: Progress, info: ModelInfo) -> Path:
    """Write the state as a new folder under ``root``, which appears in one step, complete."""
    folder = root / f"{_PREFIX}{progress.step:08d}"
    with _appearing(folder) as temporary:
        named = {
            f"{n}/{k}": v for n, network in state.networks.items() for k, v in network.state_dict().items()
        }
        _write_tensors(temporary / _NETWORKS, named)
        if state.average is not None:
            _write_tensors(temporary / _AVERAGE, state.average.state_dict())
        moments: dict[str, Tensor] = {}
        for name, adam in state.optimisers.items():
            for parameter_name, parameter in trained_parameters(state.networks[name]).items():
                for moment, value in adam.state[parameter].items():
                    moments[f"{name}/{parameter_name}/{moment}"] = value
        _write_tensors(temporary / _OPTIMISERS, moments)
        _write_json(temporary / STATE_FILE, vars(progress) | _described(info))
    return folder


def load_state(folder: Path, state: TrainState) -> Progress:
    """Put a saved state into networks and optimisers of the same sizes.

    Raises:
        UserError: a file is missing or damaged, or does not fit.
    """
    record = _read_json(folder / STATE_FILE)
    tensors = _read_tensors(folder / _NETWORKS)
    for name, network in state.networks.items():
        load_weights(network, under(tensors, f"{name}/"), f"{folder}/{_NETWORKS}: {name}")
    if state.average is not None:
        load_weights(state.average, _read_tensors(folder / _AVERAGE), f"{folder}/{_AVERAGE}")
    moments = _read_tensors(folder / _OPTIMISERS)
    for name, adam in state.optimisers.items():
        _load_moments(adam, state.networks[name], under(moments, f"{name}/"))
    return Progress(int(record["step"]), int(record["samples"]), float(record["seconds"]))


def latest_state(root: Path) -> Path | None:
    """The newest complete state under ``root``; None if there is none yet."""
    found = sorted(root.glob(f"{_PREFIX}[0-9]*[0-9]"))
    return found[-1] if found else None


def remove_old_states(root: Path, keep: int) -> None:
    """Leave the ``keep`` newest states, and no half-written ones."""
    for folder in sorted(root.glob(f"{_PREFIX}[0-9]*[0-9]"))[:-keep]:
        shutil.rmtree(folder)
    for leftover in root.glob(".*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def _load_moments(adam: Adam, network: nn.Module, moments: Mapping[str, Tensor]) -> None:
    """Adam's moments, each in the memory layout of its parameter; the saved values bit for bit."""
    for parameter_name, parameter in trained_parameters(network).items():
        own = under(moments, f"{parameter_name}/")
        counter_device = parameter.device if adam.defaults["fused"] else torch.device("cpu")
        adam.state[parameter] = {
            moment: value.to(counter_device) if moment == "step" else torch.empty_like(parameter).copy_(value)
            for moment, value in own.items()
        }


# ---- models for inference ----------------------------------------------------------------------------------


def save_model(folder: Path, model: nn.Module, info: ModelInfo) -> None:
    """Write a trained ``Safa``, or ``Tdmm`` after the head stage; a folder from before is replaced."""
    prefix = "tdmm." if info.stage == "head" else ""
    with _appearing(folder) as temporary:
        _write_tensors(temporary / _WEIGHTS, {prefix + k: v for k, v in model.state_dict().items()})
        _write_json(temporary / MODEL_FILE, _described(info))


def load_model(path: Path, device: str | torch.device = "cpu") -> tuple[Safa, ModelInfo]:
    """A trained model, ready for inference (eval mode).

    Args:
        path: a run folder, its ``model/``, or one of its checkpoints.

    Raises:
        UserError: nothing to load there, damaged, or only the head stage was trained.
    """
    weights, info = read_weights(path)
    if info.stage != "full":
        raise UserError("holds the 3DMM alone", str(path), "Train the full stage and give its folder.")
    model = Safa(info.config, HeadAssets.from_state_dict(under(weights, "tdmm.")))
    load_weights(model, weights, str(path))
    return model.to(device).eval(), info


def read_weights(path: Path) -> tuple[dict[str, Tensor], ModelInfo]:
    """Weights of the networks that inference uses, each name with its network's prefix (``tdmm.`` etc.).

    Raises:
        UserError: as ``load_model``.
    """
    for folder in (path, path / "model", latest_state(path / "checkpoints"), latest_state(path)):
        if folder is not None and (folder / MODEL_FILE).is_file():
            return _read_tensors(folder / _WEIGHTS), _info(folder / MODEL_FILE)
        if folder is not None and (folder / STATE_FILE).is_file():
            return _inference_part(folder), _info(folder / STATE_FILE)
    raise UserError(
        "no model or checkpoint here", str(path), "Give a run folder, its model/ or a checkpoint."
    )


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Strict loading whose errors are one line: which names are missing, unexpected or of another shape."""
    check_weights(network.state_dict(), weights, where)
    network.load_state_dict(dict(weights))


def check_weights(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> None:
    """Raise a ``UserError`` unless both have the same names and shapes."""
    faults = []
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    reshaped = [
        f"{name} ({_size(given[name])} instead of {_size(wanted[name])})"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    for label, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            faults.append(f"{len(names)} {label}: {', '.join(names[:3])}{more}")
    if faults:
        raise UserError(
            f"weights do not fit ({'; '.join(faults)})",
            where,
            "The model's settings must be those of the weights.",
        )


def _size(tensor: Tensor) -> str:
    return "x".join(str(n) for n in tensor.shape) or "scalar"


def _inference_part(folder: Path) -> dict[str, Tensor]:
    """Of a training state: the averaged model if there is one, else all networks but the discriminator."""
    if (folder / _AVERAGE).is_file():
        return _read_tensors(folder / _AVERAGE)
    tensors = _read_tensors(folder / _NETWORKS)
    return {k.replace("/", ".", 1): v for k, v in tensors.items() if not k.startswith("discriminator/")}


def _described(info: ModelInfo) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "stage": info.stage,
        "run": info.run,
        "step": info.step,
        "model": info.config.model_dump(mode="json"),
        "versions": {name: metadata.version(name) for name in ("torch", "safetensors")},
    }


def _info(path: Path) -> ModelInfo:
    record = _read_json(path)
    config = parse_settings(record["model"], ModelConfig, str(path))
    return ModelInfo(record["stage"], config, int(record["step"]), record["run"])


# ---- files -------------------------------------------------------------------------------------------------


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``folder`` once its contents are safely on disk."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    yield temporary
    for path in [*temporary.iterdir(), temporary]:
        _flush(path)
    if folder.exists():  # a folder cannot be renamed onto a full one
        shutil.rmtree(folder)
    temporary.rename(folder)
    _flush(folder.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A tensor with two names (the 3DMM's last layer) is written twice: the format knows no aliases."""
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        if value.data_ptr() in seen:
            value = value.clone()
        seen.add(value.data_ptr())
        plain[name] = value
    save_file(plain, path)
    path.chmod(0o644)  # safetensors leaves it readable by its owner alone


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot be read ({error})", str(path), "Use another checkpoint.") from None


def _write_json(path: Path, record: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=1), encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read ({error})", str(path), "Use another checkpoint.") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UserError(f"is not in checkpoint format {FORMAT}", str(path), "Use another checkpoint.")
    return record


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
