"""What the machine can do at all: matrix products, convolutions, copies."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from infer_cases.ways import has_bfloat16, wait
from safa.models.matrix_product import matrix_product

LARGE, SMALL = 8192, 1024  # side of the matrices, on a GPU and on a CPU


def print_roofs(device: torch.device, rounds: int) -> None:
    """TFLOP/s of all threads together, and GB/s."""
    on_gpu = device.type == "cuda"
    side = LARGE if on_gpu else SMALL
    batch = 16 if on_gpu else 1
    for dtype in (torch.float32, torch.bfloat16):
        if dtype == torch.bfloat16 and not has_bfloat16(device):
            continue
        name = str(dtype).removeprefix("torch.")
        a = torch.randn(1, side, side, device=device).to(dtype)
        _rate(f"matrix product {side}, {name}", partial(torch.matmul, a, a), 2.0 * side**3, device, rounds)
        if not on_gpu and dtype == torch.float32:
            flops = 2.0 * side**3
            _rate(
                f"matrix product {side} by oneDNN, {name}",
                partial(matrix_product, a, a),
                *(flops, device, rounds),
            )
        for channels, size in ((256, 64), (128, 128), (64, 256)):
            for layout, words in ((torch.contiguous_format, "NCHW"), (torch.channels_last, "NHWC")):
                x = torch.randn(batch, channels, size, size, device=device).to(dtype)
                x = x.contiguous(memory_format=layout)
                weight = torch.randn(channels, channels, 3, 3, device=device).to(dtype)
                weight = weight.contiguous(memory_format=layout)
                flops = 2.0 * batch * size**2 * channels**2 * 9
                label = f"convolution 3 x 3, {channels} channels, {size} px, {words}, {name}"
                _rate(label, partial(F.conv2d, x, weight, padding=1), flops, device, rounds)
    block = torch.zeros(2**28 if on_gpu else 2**26, device=device)  # 1 GiB, 256 MiB
    into = torch.empty_like(block)
    seconds = _median(lambda: into.copy_(block), device, rounds)
    print(f"{'copy':<56} {2 * block.nbytes / seconds / 1e9:9.1f} GB/s")


def _rate(label: str, work: Callable[[], object], flops: float, device: torch.device, rounds: int) -> None:
    with torch.inference_mode():
        print(f"{label:<56} {flops / _median(work, device, rounds) / 1e9:9.1f} GFLOP/s")


def _median(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    times = []
    for number in range(rounds + 2):
        began = time.perf_counter()
        work()
        wait(device)
        if number > 1:
            times.append(time.perf_counter() - began)
    return statistics.median(times)
