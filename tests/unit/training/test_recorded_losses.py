"""The first steps of both stages, in float64, give the losses that were recorded.

In float32 another number of threads already moves them by per cents within twenty steps, since Adam's first
steps are signs of gradients. In float64 (the rasteriser apart, which decides which face a pixel sees) what is
left is far below any change of the arithmetic. After an intended change: SAFA_RECORD=1 pytest THIS_FILE.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from safa.config.training import TrainConfig
from safa.head.raster import Fragments, rasterize
from safa.tensor_tree import map_tensors
from safa.training.context import LocalContext
from safa.training.dataloader import TrainingDataLoader
from safa.training.stages import make_stage

RECORDED = Path(__file__).with_name("recorded_losses.json")
# Two kinds of CPU differ by 1e-6 (relative) within these steps. In stage 2 they drift apart later, by 1e-5
# in step 15 and by 7e-3 in step 20: rounding grows with every step, as it does in float32 from the first.
STEPS = {"head": 20, "full": 12}
TOLERANCE = 1e-5  # relative


def _rasterize_in_float32(vertices: torch.Tensor, faces: torch.Tensor, size: int) -> Fragments:
    fragments = rasterize(vertices.float(), faces, size)
    return Fragments(fragments.face_index, fragments.zbuf.to(vertices), fragments.bary.to(vertices))


def _losses(config: TrainConfig, steps: int) -> list[dict[str, float]]:
    torch.manual_seed(config.seed)
    context = LocalContext()
    loader, stage = TrainingDataLoader(config, context), make_stage(config, context)
    for network in stage.networks.values():
        network.double()  # in place: the optimisers keep their parameters
    stage.networks["tdmm"]._rasterizer = _rasterize_in_float32  # type: ignore[assignment]
    if hasattr(stage, "_criteria"):
        stage._criteria.double()
    stage.train_mode()
    losses = []
    for step, batch in enumerate(loader.batches(0, steps)):
        exact: Any = map_tensors(torch.Tensor.double, batch)
        terms = stage.step([exact], torch.Generator().manual_seed(step))
        losses.append({name: float(value) for name, value in terms.items()})
    return losses


@pytest.mark.parametrize("kind", ["head", "full"])
def test_losses_are_the_recorded_ones(make_config: Callable[..., TrainConfig], kind: str) -> None:
    # Feature maps of one pixel would leave BatchNorm three numbers each: chaos within ten steps.
    encoder = {"encoder_strides": [1] * 7, "encoder_blocks": [1] * 7, "dropout": 0.0}
    changes = {f"model.head.{name}": value for name, value in encoder.items()}
    steps = STEPS[kind]
    losses = _losses(make_config(kind, changes | {"data.batch_size": 3}, length=steps), steps)
    if os.environ.get("SAFA_RECORD"):
        known = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
        RECORDED.write_text(json.dumps(known | {kind: losses}, indent=1) + "\n")
    recorded = json.loads(RECORDED.read_text())[kind]
    assert len(losses) == len(recorded) == steps
    for now, before in zip(losses, recorded, strict=True):
        assert now == pytest.approx(before, rel=TOLERANCE)
