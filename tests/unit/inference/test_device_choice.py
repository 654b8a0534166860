"""Devices and precisions: what is refused, and what ``auto`` finds the machine good at."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch

from safa.errors import UserError
from safa.inference.device_choice import choose_device, choose_precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("amx", "avx512", "dtype", "words"),
    [
        (True, True, torch.bfloat16, "bfloat16, for which this machine has AMX"),
        (False, True, torch.bfloat16, "bfloat16, for which this machine has AVX512_BF16"),
        (False, False, torch.float32, "float32: this machine has no AMX"),
    ],
)
def test_auto_is_what_the_cpu_is_good_at(amx: bool, avx512: bool, dtype: torch.dtype, words: str) -> None:
    with patch.multiple(
        torch.cpu, _is_amx_tile_supported=lambda: amx, _is_avx512_bf16_supported=lambda: avx512
    ):
        chosen = choose_precision("auto", CPU)
    assert chosen.dtype == dtype
    assert words in chosen.note


def test_auto_needs_a_torch_that_uses_the_instructions() -> None:
    with (
        patch.object(torch.cpu, "_is_amx_tile_supported", lambda: True),
        patch.object(torch.backends.mkldnn, "is_available", lambda: False),
    ):
        assert choose_precision("auto", CPU).dtype == torch.float32


@pytest.mark.parametrize(
    ("capability", "dtype", "words"),
    [
        ((9, 0), torch.bfloat16, "tensor cores (compute capability 9.0)"),
        ((8, 0), torch.bfloat16, "tensor cores"),
        ((7, 5), torch.float32, "no GPU of compute capability 8.0 or more"),
    ],
)
def test_auto_is_what_the_gpu_is_good_at(capability: tuple[int, int], dtype: torch.dtype, words: str) -> None:
    with patch.object(torch.cuda, "get_device_capability", lambda device: capability):
        chosen = choose_precision("auto", GPU)
    assert chosen.dtype == dtype
    assert words in chosen.note


def test_what_was_asked_for_needs_no_note() -> None:
    chosen = choose_precision("bfloat16", CPU)
    assert (chosen.name, chosen.note) == ("bfloat16", "")


def test_what_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="precision: there is no precision 'half'"):
        choose_precision("half", CPU)
    with pytest.raises(UserError, match="precision: float16 needs a GPU"):
        choose_precision("float16", CPU)
    with pytest.raises(UserError, match="device: meta is not supported"):
        choose_device("meta")
