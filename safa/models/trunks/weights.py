"""Reading weights that someone else trained. Nothing but tensors is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from safa.errors import UserError


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """A flat state dict from ``.safetensors``, or from a PyTorch file (``.pth``).

    Raises:
        UserError: the file cannot be read, or holds anything but tensors by name.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read the weights ({error.strerror or error})", str(path)) from None
    except Exception as error:  # bytes that are no weights fail anywhere inside the parsers, in any way
        reason = str(error).partition("\n")[0]
        raise UserError(f"no state dict of tensors ({type(error).__name__}: {reason})", str(path)) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError("no state dict of tensors", str(path))
    return state
