"""Structure-aware face animation: the model, its data, its training and its use. Never imports Ray."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from safa.inference.face_animator import FaceAnimator


def load(
    checkpoint: str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 8,
    assets: str | Path = "assets",
) -> FaceAnimator:
    """A model that animates photos; see docs/python.md.

    Args:
        checkpoint: a run's folder, its ``model/``, one of its checkpoints, or a released file.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto`` (float32), ``float32``, ``bfloat16`` or ``float16``.
        batch_size: driving frames that pass through the model at once.
        assets: folder with the weights of a face detector, if there are any.

    Raises:
        safa.errors.UserError: no model there, or a device or precision that is not here.
    """
    from safa.inference.loading import open_animator  # torch takes a second: only who loads a model waits

    return open_animator(checkpoint, device=device, precision=precision, batch_size=batch_size, assets=assets)


__all__ = ["load"]
