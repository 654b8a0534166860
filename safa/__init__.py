"""SAFA, structure-aware face animation: the model, its data, training, inference and evaluation. No Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safa.errors import UserError

if TYPE_CHECKING:
    import os

    import torch

    from safa.inference.face_animator import FaceAnimator

__all__ = ["UserError", "load"]
__version__ = "0.1.0"


def load(
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device = "auto",
    precision: str = "float32",
    rasterizer: str = "auto",
    batch_size: int | None = None,
    assets: str | os.PathLike[str] | None = None,
    detector: str = "auto",
) -> FaceAnimator:
    """Load a model that takes photos and videos; docs/python.md shows what it can do.

    Args:
        checkpoint: a training run's folder, its ``model/``, one of its checkpoints, or a released file. None
            is the only model below ``runs/``, else the small one that comes with safa.
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
        safa.errors.UserError: there is no such model, device, precision, rasteriser or detector.
    """
    from safa.inference.loading import open_animator  # imports torch, which takes a second

    return open_animator(
        checkpoint,
        device=device,
        precision=precision,
        rasterizer=rasterizer,
        batch_size=batch_size,
        assets=assets,
        detector=detector,
    )


def __dir__() -> list[str]:
    """List what is meant to be used, not what is imported here."""
    return sorted([*__all__, "__doc__", "__file__", "__name__", "__path__", "__version__"])
