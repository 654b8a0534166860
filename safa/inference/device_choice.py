"""Choice of the device, and of the precision that this device is good at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch

from safa.config.inference import PrecisionChoice
from safa.errors import UserError
from safa.messages import count

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FIRST_WITH_BFLOAT16 = (8, 0)  # compute capability of the first tensor cores for it (Ampere)


@dataclass(frozen=True)
class Precision:
    """What convolutions run in.

    Attributes:
        dtype: float32, bfloat16 or float16.
        note: why, where it was chosen here; else empty.
    """

    dtype: torch.dtype
    note: str = ""

    @property
    def name(self) -> str:
        """``float32``, ``bfloat16`` or ``float16``."""
        return str(self.dtype).removeprefix("torch.")


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
        what = f"{name} is not here, where PyTorch finds {count(torch.cuda.device_count(), 'GPU')}"
        raise UserError(what, "device", "Use auto or cpu.")
    return device


def choose_precision(name: str, device: torch.device) -> Precision:
    """Return the precision of this name; ``auto`` is one that the device multiplies faster than float32.

    Raises:
        UserError: there is no such precision, or this device lacks it.
    """
    if name == "auto":
        return _fastest(device)
    if name not in PRECISIONS:
        fix = f"Use one of {', '.join(get_args(PrecisionChoice))}."
        raise UserError(f"there is no precision {name!r}", "precision", fix)
    if name == "float16" and device.type == "cpu":
        raise UserError("float16 needs a GPU", "precision", "Use float32 or bfloat16 on the CPU.")
    return Precision(PRECISIONS[name])


def _fastest(device: torch.device) -> Precision:
    has, lacks = _hardware_for_bfloat16(device)
    if has:
        return Precision(torch.bfloat16, f"convolutions run in bfloat16, for which this machine has {has}")
    return Precision(torch.float32, f"convolutions run in float32: this machine has no {lacks}")


def _hardware_for_bfloat16(device: torch.device) -> tuple[str, str]:
    """What multiplies bfloat16 faster than float32 here; where there is nothing, what there could be."""
    if device.type == "cuda":
        lacks = f"GPU of compute capability {FIRST_WITH_BFLOAT16[0]}.{FIRST_WITH_BFLOAT16[1]} or more"
        major, minor = torch.cuda.get_device_capability(device)
        if (major, minor) < FIRST_WITH_BFLOAT16:
            return "", lacks
        return f"tensor cores (compute capability {major}.{minor})", lacks
    return instructions_for_bfloat16(), "AMX, AVX512_BF16 or other instructions for bfloat16"


def instructions_for_bfloat16() -> str:
    """Name of the CPU's instructions that multiply bfloat16; empty if it has none, or torch uses none.

    oneDNN runs bfloat16 on every CPU with AVX-512, without these no faster than float32.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return ""
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX512_BF16" if torch.cpu._is_avx512_bf16_supported() else ""
