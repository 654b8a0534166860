"""Loading: from a checkpoint and names to a ``FaceAnimator`` with its device, precision and face detector."""

from __future__ import annotations

from pathlib import Path

import torch

from safa.asset_folders import asset_folders
from safa.checkpoint.native import load_model
from safa.checkpoint.released import released_model
from safa.errors import UserError
from safa.files import Location, is_file, is_uri, location
from safa.inference.face_animator import FaceAnimator
from safa.inference.model_choice import described, find_model
from safa.inference.options import check_whole_number
from safa.inference.pictures import PathLike, path_of
from safa.inference.trackers import BACKENDS, Backend, load_face_tracker

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def open_animator(
    checkpoint: PathLike,
    *,
    device: str | torch.device = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    assets: PathLike | None = None,
    detector: str = "auto",
) -> FaceAnimator:
    """Load a model, and the best face detector that is installed.

    Args:
        checkpoint: path or URI of a training run's folder, its ``model/``, one of its checkpoints or a
            released file; or a local folder that has one such run in it (``runs/demo``).
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto`` (bfloat16 on a GPU that is fast at it, else float32), ``float32``,
            ``bfloat16`` or ``float16``.
        batch_size: driving frames that pass through the model at once; None is 1 on a CPU, and on a GPU what
            its memory has room for.
        assets: folder that may hold the weights of a face detector; None searches the usual ones.
        detector: ``auto`` (landmarks beside a file, else face-alignment if its weights are there, else
            dlib), ``dlib``, ``fan`` (face-alignment), or ``none`` (landmarks beside a file alone).

    Raises:
        UserError: there is no such model, device, precision or detector.
    """
    torch_device = choose_device(str(device))
    dtype = choose_precision(str(precision), torch_device)
    if batch_size is not None:
        check_whole_number("batch_size", batch_size, 1)
    backend = _backend(detector)
    path = _location("checkpoint", checkpoint)
    folders = asset_folders(None if assets is None else _location("assets", assets))
    if is_file(path):
        model, about = released_model(path), ""
    else:
        path = path if is_uri(path) else find_model(Path(path))
        model, info = load_model(path)
        about = described(path, info)
    face_tracker = load_face_tracker(torch_device, folders, backend)
    sidecars = backend in ("auto", "none")
    return FaceAnimator(model, torch_device, dtype, batch_size, face_tracker, about, sidecars=sidecars)


def _backend(name: str) -> Backend:
    backend = next((each for each in BACKENDS if each == name), None)
    if backend is None:
        raise UserError(f"there is no {name!r}", "detector", f"Use one of {', '.join(BACKENDS)}.")
    return backend


def _location(name: str, value: PathLike) -> Location:
    if isinstance(value, str) and "://" in value:
        return location(value)
    path = path_of(value)
    if path is None:
        raise UserError(f"is of type {type(value).__name__}", name, "Give a path.")
    return path


def choose_device(name: str) -> torch.device:
    """Return the device of this name; ``auto`` is CUDA where there is one.

    Raises:
        UserError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"no device named {name!r}", "device", "Use auto, cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"{name} is not supported", "device", "Use auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"there is no CUDA device {name}", "device", "Use auto or cpu.")
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype of this name; ``auto`` is one that the device multiplies faster than float32, if any.

    Raises:
        UserError: there is no such precision, or this device lacks it.
    """
    if name == "auto":
        return torch.bfloat16 if is_fast_in_bfloat16(device) else torch.float32
    if name not in PRECISIONS:
        raise UserError(
            f"there is no precision {name!r}", "precision", f"Use one of auto, {', '.join(PRECISIONS)}."
        )
    if name == "float16" and device.type == "cpu":
        raise UserError("float16 needs a GPU", "precision", "Use float32 or bfloat16 on the CPU.")
    return PRECISIONS[name]


def is_fast_in_bfloat16(device: torch.device) -> bool:
    """Whether the device has tensor cores for bfloat16. CPUs keep float32, with the same pictures on all."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)
