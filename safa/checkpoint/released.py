"""Checkpoints in the released layout: read with nothing run, converted to ours and back bit for bit.

A released file is a ``torch.save``d dict: state dicts ``generator``, ``kp_detector``, ``discriminator``,
``tdmm``, one ``optimizer_<network>`` each, and ``epoch``; after 3DMM pre-training only ``tdmm``,
``optimizer_tdmm``, ``epoch`` (docs/model.md, section 10). Our networks use the same names in the same order.
That order is also how an optimiser numbers its parameters, so entry i belongs to the i-th parameter of the
network, a tensor with two names counted once.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from safa.checkpoint.native import ModelInfo, Progress, StoredState, read_state, write_state
from safa.config import ModelConfig
from safa.errors import UserError, printable
from safa.files import Location, atomic_file, local_file, name_of, shown
from safa.head.assets import HeadAssets
from safa.head.raster import available_rasterizer
from safa.models.discriminator import MultiScaleDiscriminator
from safa.models.safa import Safa
from safa.models.tdmm import Tdmm
from safa.unpickle.torch_file import load_torch_file
from safa.weights import check_finite, check_weights, load_weights, strip_prefix

log = logging.getLogger(__name__)

FULL = ("generator", "kp_detector", "discriminator", "tdmm")
HEAD = ("tdmm",)
_INFERENCE = ("generator", "kp_detector", "tdmm")  # the discriminator is for training alone
_PARALLEL = "module."  # what torch's DataParallel puts before each name
_ADVICE = "Get the file from its owner again."


@dataclass(frozen=True)
class ReleasedCheckpoint:
    """The contents of a released file.

    Attributes:
        networks: state dict of each network.
        optimisers: for each network, ``torch.optim.Adam.state_dict()``; may lack some.
        epoch: as stored.
        notes: what of the file was left out or converted, one sentence each.
    """

    networks: Mapping[str, Mapping[str, Tensor]]
    optimisers: Mapping[str, Mapping[str, Any]]
    epoch: int
    notes: tuple[str, ...] = ()


# ---- files -------------------------------------------------------------------------------------------------


def read_released(location: Location) -> ReleasedCheckpoint:
    """Read a released checkpoint. Only tensors and plain containers are ever unpickled.

    A file may lack the discriminator, the optimisers and the epoch. Names that begin with ``module.``, as
    ``DataParallel`` writes them, lose that; weights of half precision become float32; what else is in the
    file is left out. The log names each of these.

    Raises:
        UserError: as ``load_torch_file``, or the file is not in the released layout.
    """
    with local_file(location) as path:
        checkpoint = _read_released(path)
    for note in checkpoint.notes:
        log.warning("%s: %s", shown(location), note)
    return checkpoint


def _read_released(path: Path) -> ReleasedCheckpoint:
    content = load_torch_file(path)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError("is not a dictionary of networks", str(path), _ADVICE)
    if content and _is_state_dict(content):
        first = printable(next(iter(content)))[:60]
        what = f"is the state dict of one network ({first}, ...), not a checkpoint"
        raise UserError(what, str(path), f"A checkpoint has {', '.join(_INFERENCE)}, each with its own.")
    expected = _INFERENCE if set(FULL) & set(content) - {"tdmm"} else HEAD
    here = [name for name in FULL if name in content]
    errors = [f"missing '{name}'" for name in expected if name not in content]
    errors += [f"'{name}' is no state dict" for name in here if not _is_state_dict(content[name])]
    if errors:
        held = f" (it has {printable(', '.join(content))[:80]})" if content else ""
        raise UserError(f"is not in the released layout: {', '.join(errors)}{held}", str(path), _ADVICE)
    optimisers = {name: content[f"optimizer_{name}"] for name in here if f"optimizer_{name}" in content}
    epoch = content.get("epoch", 0)
    if not isinstance(epoch, int):
        raise UserError(f"'epoch' is {type(epoch).__name__}, not a number", str(path), _ADVICE)
    networks: dict[str, Mapping[str, Tensor]] = {}
    notes = []
    for name in here:
        networks[name], changed = _plain(content[name])
        notes += [f"{what} in '{name}'" for what in changed]
    known = {*FULL, *(f"optimizer_{name}" for name in FULL), "epoch"}
    notes += [f"'{printable(key)[:60]}' is left out" for key in content if key not in known]
    return ReleasedCheckpoint(networks, optimisers, epoch, tuple(notes))


def _plain(tensors: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], list[str]]:
    """A state dict with our names, in float32; and what was done for that."""
    changed = []
    if tensors and all(name.startswith(_PARALLEL) for name in tensors):
        tensors = strip_prefix(tensors, _PARALLEL)
        changed.append(f"names without '{_PARALLEL}'")
    half = {name for name, value in tensors.items() if value.dtype in (torch.float16, torch.bfloat16)}
    if half:
        tensors = {name: value.float() if name in half else value for name, value in tensors.items()}
        changed.append("float32 in place of half precision")
    return tensors, changed


def write_released(path: Location, checkpoint: ReleasedCheckpoint) -> None:
    """Write the released layout, atomically."""
    content: dict[str, Any] = {name: OrderedDict(tensors) for name, tensors in checkpoint.networks.items()}
    content |= {f"optimizer_{name}": state for name, state in checkpoint.optimisers.items()}
    content["epoch"] = checkpoint.epoch
    with atomic_file(path) as temporary:
        torch.save(content, temporary)


def _is_state_dict(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    )


# ---- conversion --------------------------------------------------------------------------------------------


def import_released(path: Location, folder: Location, config: ModelConfig) -> ModelInfo:
    """Convert a released file to a training state of ours at ``folder``; ``load_model`` reads it too.

    Args:
        config: the sizes of its networks; ``ModelConfig()`` for the authors' checkpoints.

    Raises:
        UserError: as ``read_released``, or weights or optimiser entries that are not those of ``config``.
    """
    released = read_released(path)
    modules = _networks(config, released.networks, shown(path))
    moments: dict[str, dict[str, Tensor]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for name, optimiser in released.optimisers.items():
        where = f"{shown(path)}, optimizer_{name}"
        moments[name], settings[name] = _named_moments(optimiser, modules[name], where)
    steps = [
        int(value) for state in moments.values() for key, value in state.items() if key.endswith("/step")
    ]
    stage = "full" if len(released.networks) > 1 else "head"
    info = ModelInfo(stage, config, max(steps, default=0), name_of(path))
    progress = Progress(step=info.step, epoch=released.epoch)
    write_state(folder, StoredState(released.networks, None, moments, settings, progress, info))
    return info


def export_released(folder: Location, path: Location) -> None:
    """Convert a training state of ours to a released file. An averaged model is left behind.

    Raises:
        UserError: no training state at ``folder``, or damaged.
    """
    stored = read_state(folder, listed=False)
    modules = _networks(stored.info.config, stored.networks, shown(folder))
    names = FULL if stored.info.stage == "full" else HEAD
    networks = {
        n: {key: stored.networks[n][key] for key in modules[n].state_dict()}
        for n in names
        if n in stored.networks
    }
    optimisers = {
        name: _numbered_moments(stored.moments.get(name, {}), stored.optimisers[name], modules[name])
        for name in networks
        if name in stored.optimisers
    }
    write_released(path, ReleasedCheckpoint(networks, optimisers, stored.progress.epoch))


def _networks(
    config: ModelConfig, weights: Mapping[str, Mapping[str, Tensor]], where: str
) -> dict[str, nn.Module]:
    """Networks of these sizes, after checking that the weights are theirs. Nothing is drawn with them."""
    config = config.with_rasterizer("native")
    try:
        assets = HeadAssets.from_state_dict(weights["tdmm"])
    except UserError as error:
        raise UserError(error.what, f"{where}, tdmm", error.fix) from None
    modules: dict[str, nn.Module] = {}
    if len(weights) > 1:
        model = Safa(config, assets)
        modules |= {"generator": model.generator, "kp_detector": model.kp_detector}
        modules |= {"discriminator": MultiScaleDiscriminator(config), "tdmm": model.tdmm}
    else:
        modules["tdmm"] = Tdmm(config, assets)
    for name, tensors in weights.items():
        check_weights(modules[name].state_dict(), tensors, f"{where}, {name}")
    return modules


def _named_moments(
    optimiser: Mapping[str, Any], network: nn.Module, where: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Adam's state by parameter name, and its group's settings as plain data."""
    try:
        (group,) = optimiser["param_groups"]
        json.dumps(group)  # our format keeps it as JSON
        order = _parameter_order(network, group["params"])
        entries = [(order[number], state) for number, state in optimiser["state"].items()]
        whole_steps = any(isinstance(state["step"], int) for _, state in entries)
        moments = {
            f"{name}/{moment}": torch.as_tensor(value, dtype=torch.float32) if moment == "step" else value
            for name, state in entries
            for moment, value in state.items()
        }
    except (KeyError, TypeError, ValueError):
        raise UserError("is not the state of an Adam over this network", where, _ADVICE) from None
    parameters = dict(network.named_parameters())
    for key, value in moments.items():
        name, _, moment = key.rpartition("/")
        if not isinstance(value, Tensor) or (moment != "step" and value.shape != parameters[name].shape):
            raise UserError(f"'{moment}' of {name} does not have the parameter's shape", where, _ADVICE)
    return moments, dict(group) | {"whole_steps": whole_steps}


def _numbered_moments(
    moments: Mapping[str, Tensor], settings: Mapping[str, Any], network: nn.Module
) -> dict[str, Any]:
    """The reverse of ``_named_moments``; optimisers of our own number all parameters."""
    group = {key: value for key, value in settings.items() if key != "whole_steps"}
    group["betas"] = tuple(group["betas"])  # JSON made it a list
    group.setdefault("params", list(range(len(list(network.parameters())))))
    state: dict[int, dict[str, Any]] = {}
    for number, name in _parameter_order(network, group["params"]).items():
        own = {
            m: moments[f"{name}/{m}"] for m in ("step", "exp_avg", "exp_avg_sq") if f"{name}/{m}" in moments
        }
        if own:
            whole = settings.get("whole_steps", False)
            state[number] = own | ({"step": int(own["step"])} if whole else {})
    return {"state": state, "param_groups": [group]}


def _parameter_order(network: nn.Module, numbers: Sequence[int]) -> dict[int, str]:
    """Name of each numbered parameter. Optimisers were made over all parameters, or over those that learn."""
    for names in (
        [name for name, _ in network.named_parameters()],
        [name for name, parameter in network.named_parameters() if parameter.requires_grad],
    ):
        if len(names) == len(numbers):
            return dict(zip(numbers, names, strict=True))
    raise ValueError(f"{len(numbers)} optimiser entries for another number of parameters")


def released_model(path: Location, rasterizer: str = "auto") -> Safa:
    """The networks of a released checkpoint, which has the published sizes.

    Args:
        rasterizer: as for ``load_model``; ``auto`` is native.

    Raises:
        UserError: not such a file, or of other sizes; there is no such rasteriser here.
    """
    networks = read_released(path).networks
    if "generator" not in networks:
        raise UserError("holds the 3DMM alone", shown(path), "Give the checkpoint of the full model.")
    config = ModelConfig().with_rasterizer(available_rasterizer(rasterizer, "native"))
    model = Safa(config, HeadAssets.from_state_dict(networks["tdmm"]))
    weights = {f"{name}.{key}": value for name in _INFERENCE for key, value in networks[name].items()}
    check_finite(weights, shown(path))
    load_weights(model, weights, shown(path))
    return model
