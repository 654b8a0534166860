"""Where the time of one frame goes, with the arithmetic of each part."""

from __future__ import annotations

from typing import Any

from measuring.clocks import Clock
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from infer_cases.ways import Engine, wait
from safa.visualize.images import RgbImage


def seconds_by_part(engine: Engine, driving: list[RgbImage], rounds: int) -> dict[str, float]:
    """Mean seconds of each part of a batch, and ``rest``: transfer, conversions, masks between the parts."""
    runner = engine.runner
    engine(driving)
    engine(driving)
    clock = Clock(lambda: wait(runner.device))
    model = runner.model
    generator, motion = model.generator, model.generator.dense_motion_network
    watched: list[tuple[Any, str, str]] = [
        (runner, "to_batch", "frames to the device"),
        (model.kp_detector, "detect", "keypoints"),
        (model.tdmm, "estimate", "3DMM encoder"),
        (model.tdmm, "geometry", "head model"),
        (model.tdmm, "render", "render"),
        (model.tdmm, "_rasterizer", "rasteriser"),
        (motion.hourglass, "forward", "dense motion, hourglass"),
        (motion, "forward", "dense motion, rest"),
        (generator.bottleneck, "forward", "bottleneck"),
        (generator.context_atten_layer, "forward", "attention"),
        (generator.concat_conv, "forward", "concat convolution"),
        (generator.final, "forward", "final convolution"),
        (generator, "forward", "generator, rest: warps, GADE"),
    ]
    dilated = (generator.conv00, generator.conv01, generator.conv02, generator.conv03)
    watched += [(branch, "forward", "dilated convolutions") for branch in dilated]
    watched += [(block, "forward", f"up block {number}") for number, block in enumerate(generator.up_blocks)]
    plain = [(owner, name, getattr(owner, name)) for owner, name, _ in watched]
    for owner, name, part in watched:
        clock.wrap(owner, name, part)
    try:
        for _ in range(rounds):
            with clock.part("rest"):
                engine(driving)
    finally:
        for owner, name, call in plain:
            if isinstance(owner, nn.Module):
                object.__setattr__(owner, name, call)
            else:
                setattr(owner, name, call)
    return {name: spent / rounds for name, spent in clock.seconds.items()}


def operations(work: Any) -> float:
    """Floating point operations of the matrix products and convolutions of a call.

    Packed convolutions go by oneDNN's name and are not counted, so it is asked of a model that is not packed.
    """
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())
