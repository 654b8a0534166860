"""Tensors and JSON in folders that appear whole or not at all. No pickle."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from safa.errors import UserError

FORMAT = 1
_SHOWN = 3  # names in an error


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``folder`` once its contents are safely on disk."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    yield temporary
    for path in [*temporary.iterdir(), temporary]:
        _flush(path)
    replaced = folder.with_name(f".{folder.name}.old.tmp")
    if folder.exists():  # a folder cannot be renamed onto a full one
        shutil.rmtree(replaced, ignore_errors=True)
        folder.rename(replaced)
    temporary.rename(folder)
    _flush(folder.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """The record, with the number of this format."""
    path.write_text(json.dumps({"format": FORMAT} | dict(record), indent=1), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """What ``write_json`` wrote.

    Raises:
        UserError: no such file, damaged, or of another format.
    """
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
