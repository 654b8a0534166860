"""What a GPU computes against the CPU: rasteriser, pictures, steps, and a group of one by NCCL."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from safa.config import ModelConfig, parse_settings
from safa.head import load_head_assets
from safa.head.raster import rasterize
from safa.inference.device_choice import choose_precision
from safa.inference.model_runner import ModelRunner, default_batch_size
from safa.models.safa import Safa
from safa.training.context import GroupContext

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]


@pytest.fixture(scope="module")
def small() -> Safa:
    """A model of 64 px with random weights."""
    glass = {"block_expansion": 8, "num_blocks": 3, "max_features": 32, "scale_factor": 0.5}
    sizes = {
        "image_size": 64,
        "keypoints": {"hourglass": glass},
        "head": {"encoder_width": 0.25, "uv_size": 64},
        "generator": {"block_expansion": 8, "max_features": 32, "dense_motion": glass},
        "discriminator": {"scales": [1.0], "block_expansion": 8, "num_blocks": 3},
    }
    config = parse_settings(sizes, ModelConfig, "test")
    torch.manual_seed(0)
    return Safa(config, load_head_assets(config.head)).eval()


def frames(count: int) -> list[Any]:
    rng = torch.Generator().manual_seed(1)
    images = torch.nn.functional.interpolate(torch.rand(count, 3, 8, 8, generator=rng), 64, mode="bicubic")
    return [(image.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy() for image in images]


def animated(model: Safa, device: torch.device, precision: torch.dtype = torch.float32) -> torch.Tensor:
    runner = ModelRunner(model, device, 4, precision)
    batches = runner.reconstruct(runner.prepare(frames(1)[0]), frames(6))
    return torch.cat([batch.result.prediction.cpu() for batch in batches])


@pytest.fixture
def exact_float32() -> Any:
    """No TF32, whose ten bits are not what is compared here."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.usefixtures("exact_float32")
def test_pictures_are_those_of_the_cpu(cuda: torch.device, small: Safa) -> None:
    ours, expected = animated(small, cuda), animated(small, torch.device("cpu"))
    torch.testing.assert_close(ours, expected, atol=1e-3, rtol=0)


def test_bfloat16_stays_near(cuda: torch.device, small: Safa) -> None:
    dtype = choose_precision("auto", cuda).dtype
    difference = animated(small, cuda, dtype) - animated(small, torch.device("cpu"))
    assert difference.abs().mean() < 0.02


def test_the_rasteriser_sees_the_same_faces(cuda: torch.device, small: Safa) -> None:
    with torch.inference_mode():
        code = small.analyse(torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(2))).code
        vertices = small.tdmm.geometry(code).vertices + torch.tensor([0, 0, 10.0])
    faces = small.tdmm.faces[0]
    here, there = rasterize(vertices, faces, 64), rasterize(vertices.to(cuda), faces.to(cuda), 64)
    other = (here.face_index != there.face_index.cpu()).float().mean()
    assert other < 1e-3  # pixels on an edge
    same = here.face_index == there.face_index.cpu()
    torch.testing.assert_close(there.bary.cpu()[same], here.bary[same], atol=1e-4, rtol=0)


def test_the_batch_fits_the_memory(cuda: torch.device) -> None:
    assert 1 <= default_batch_size(cuda, 256) <= 64


@pytest.mark.usefixtures("exact_float32")
@pytest.mark.parametrize("stage", ["head", "full"])
def test_steps_are_those_of_the_cpu(
    cuda: torch.device, make_stage_on: Callable[[str, bool], Any], stage: str
) -> None:
    losses = {on: make_stage_on(stage, on) for on in (False, True)}
    for name, value in losses[False].items():
        assert losses[True][name] == pytest.approx(value, rel=1e-2, abs=1e-4), name


def test_a_group_of_one_by_nccl(cuda: torch.device, tmp_path: Path) -> None:
    """Gradients behind SyncBatchNorm and the data-parallel wrapper are those without."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 1, 3)).to(cuda)
    plain, x = copy.deepcopy(network), torch.rand(4, 3, 16, 16, device=cuda)
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        context = GroupContext(cuda)
        assert context.sum(torch.ones(2, device=cuda)).tolist() == [1, 1]
        synced = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        wrapped = DistributedDataParallel(synced, device_ids=[cuda])
        wrapped(x).square().sum().backward()
        plain(x).square().sum().backward()
    finally:
        dist.destroy_process_group()
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-3)
