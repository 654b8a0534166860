"""Reading weights that someone else trained. Nothing but tensors is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from safa.errors import UserError
from safa.unpickle.torch_file import load_torch_file


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """Read a flat state dict from ``.safetensors``, or from a PyTorch file (``.pth``).

    Raises:
        UserError: the file cannot be read, or holds anything but tensors by name.
    """
    if not path.is_file():
        raise UserError("cannot read the weights (no such file)", str(path))
    state = _read_safetensors(path) if path.suffix == ".safetensors" else load_torch_file(path)
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise UserError("no state dict of tensors", str(path))
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except OSError as error:
        raise UserError(f"cannot read the weights ({error.strerror or error})", str(path)) from None
    except Exception as error:  # bytes that are no weights fail anywhere inside the parsers, in any way
        reason = str(error).partition("\n")[0]
        raise UserError(f"no state dict of tensors ({type(error).__name__}: {reason})", str(path)) from None


_SHOWN = 3  # names in an error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """One safetensors file. A tensor with two names is written twice: the format knows no aliases."""
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


def read_tensors(path: Path) -> dict[str, Tensor]:
    """What ``write_tensors`` wrote, on the CPU.

    Raises:
        UserError: no such file, or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot be read ({error})", str(path), "Use another checkpoint.") from None


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def load_weights(network: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Strict loading; ``where`` names the origin in the one-line ``UserError`` of ``check_weights``."""
    check_weights(network.state_dict(), weights, where)
    network.load_state_dict(dict(weights))


def check_weights(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> None:
    """Raise a ``UserError`` unless both have the same names and shapes; it says which differ."""
    reshaped = [
        f"{name} ({_size(given[name])} instead of {_size(wanted[name])})"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    faults = [
        _listed("missing", [name for name in wanted if name not in given]),
        _listed("unexpected", [name for name in given if name not in wanted]),
        _listed("of another shape", reshaped),
    ]
    if any(faults):
        shown = "; ".join(fault for fault in faults if fault)
        raise UserError(
            f"weights do not fit ({shown})", where, "The model's settings must be those of the weights."
        )


def _listed(label: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)} {label}: {', '.join(names[:_SHOWN])}{more}"


def _size(tensor: Tensor) -> str:
    return "x".join(str(n) for n in tensor.shape) or "scalar"
