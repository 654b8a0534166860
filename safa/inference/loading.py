"""Loading: from a checkpoint and names to a ``FaceAnimator`` with its device, precision and face detector."""

from __future__ import annotations

from pathlib import Path

import torch

from safa.asset_folders import asset_folders
from safa.checkpoint.native import load_model
from safa.checkpoint.released import released_model
from safa.errors import UserError
from safa.files import is_file, is_uri
from safa.inference.device_choice import choose_device, choose_precision
from safa.inference.face_animator import FaceAnimator
from safa.inference.model_choice import default_model, described, find_model
from safa.inference.options import check_whole_number
from safa.inference.pictures import PathLike, to_location
from safa.inference.trackers import BACKENDS, Backend, load_face_tracker
from safa.models.safa import Safa


def open_animator(
    checkpoint: PathLike | None = None,
    *,
    device: str | torch.device = "auto",
    precision: str = "float32",
    rasterizer: str = "auto",
    batch_size: int | None = None,
    assets: PathLike | None = None,
    detector: str = "auto",
) -> FaceAnimator:
    """Load a model, and the best face detector that is installed.

    Args:
        checkpoint: path or URI of a training run's folder, its ``model/``, one of its checkpoints or a
            released file; or a local folder that has one such run in it (``runs/demo``). None is the only
            model below ``runs/``, else the small one that comes with safa.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: of convolutions: ``float32``, ``bfloat16``, ``float16`` (on GPUs), or ``auto``: bfloat16 on
            machines that are fast at it, else float32.
        rasterizer: ``native``, ``pytorch3d`` (if that is installed), or ``auto``: the one of the model's
            training, and native where that is not installed.
        batch_size: driving frames that pass through the model at once; None is 1 to 8 on a CPU, by their
            size, and on a GPU what its memory has room for.
        assets: folder that may hold the weights of a face detector; None searches the usual ones.
        detector: ``auto`` (landmarks beside a file, else face-alignment if its weights are there, else
            dlib), ``dlib``, ``fan`` (face-alignment), or ``none`` (landmarks beside a file alone).

    Raises:
        UserError: there is no such model, device, precision, rasteriser or detector.
    """
    torch_device = choose_device(str(device))
    chosen = choose_precision(str(precision), torch_device)
    if batch_size is not None:
        check_whole_number("batch_size", batch_size, 1)
    backend = _backend(detector)
    folders = asset_folders(None if assets is None else to_location("assets", assets))
    model, about = open_model(checkpoint, rasterizer)
    face_tracker = load_face_tracker(torch_device, folders, backend)
    sidecars = backend in ("auto", "none")
    notes = (chosen.note,) if chosen.note else ()
    return FaceAnimator(
        *(model, torch_device, chosen.dtype, batch_size, face_tracker, about), sidecars=sidecars, notes=notes
    )


def open_model(checkpoint: PathLike | None = None, rasterizer: str = "auto") -> tuple[Safa, str]:
    """Load a model as it was trained, on the CPU, and say which one it is.

    Args:
        checkpoint, rasterizer: as for ``open_animator``.

    Raises:
        UserError: there is no such model or rasteriser.
    """
    path = default_model() if checkpoint is None else to_location("checkpoint", checkpoint)
    if is_file(path):
        return released_model(path, rasterizer), ""
    path = path if is_uri(path) else find_model(Path(path))
    model, info = load_model(path, rasterizer=rasterizer)
    return model, described(path, info)


def _backend(name: str) -> Backend:
    backend = next((each for each in BACKENDS if each == name), None)
    if backend is None:
        raise UserError(f"there is no {name!r}", "detector", f"Use one of {', '.join(BACKENDS)}.")
    return backend
