"""Fixtures of more than one folder: heads, models that run in a blink, settings of tiny runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from safa.config import ModelConfig, parse_settings
from safa.config.training import TrainConfig
from safa.data.sampler import FrameBatch, PairBatch
from safa.head.assets import NUM_CONTOUR, NUM_INNER, NUM_LANDMARKS, NUM_YAWS, HeadAssets
from safa.models.safa import Safa
from safa.training.context import LocalContext
from safa.training.dataloader import TrainingDataLoader
from safa.training.stages import make_stage

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the reference tensors; the test is skipped where they are not."""
    if not GOLDEN.is_dir():
        pytest.skip("reference tensors (../shared/golden) are not here")
    return GOLDEN


@pytest.fixture(scope="session")
def toy_head() -> HeadAssets:
    """A head of 98 vertices: an ellipsoid with random blend shapes, joints and landmarks."""
    rng = torch.Generator().manual_seed(7)
    vertices, faces, uv_coords, uv_faces = _ellipsoid(rings=8, segments=16)
    num_vertices, num_faces = len(vertices), len(faces)

    def noise(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(shape, generator=rng)

    def landmarks(*shape: int) -> tuple[Tensor, Tensor]:
        bary = torch.rand(*shape, 3, generator=rng)
        return torch.randint(num_faces, shape, generator=rng), bary / bary.sum(-1, keepdim=True)

    static_faces, static_bary = landmarks(NUM_INNER)
    dynamic_faces, dynamic_bary = landmarks(NUM_YAWS, NUM_CONTOUR)
    full_faces, full_bary = landmarks(NUM_LANDMARKS)
    face_mask = torch.zeros(256, 256)
    face_mask[64:224, 64:192] = 1
    assets = HeadAssets(
        v_template=vertices,
        faces=faces,
        shapedirs=noise(num_vertices, 3, 100, scale=1e-4),
        expressiondirs=noise(num_vertices, 3, 50, scale=1e-4),
        posedirs=noise(num_vertices, 3, 36, scale=1e-4),
        J_regressor=noise(5, num_vertices).softmax(1),
        parents=torch.tensor([-1, 0, 1, 1, 1]),
        lbs_weights=noise(num_vertices, 5, scale=3).softmax(1),
        static_lmk_faces=static_faces,
        static_lmk_bary=static_bary,
        dynamic_lmk_faces=dynamic_faces,
        dynamic_lmk_bary=dynamic_bary,
        full_lmk_faces=full_faces,
        full_lmk_bary=full_bary,
        uv_coords=uv_coords,
        uv_faces=uv_faces,
        face_mask=face_mask,
        face_eye_mask=face_mask.clone().fill_(1),
    )
    assets.validate()
    return assets


def _ellipsoid(rings: int, segments: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Vertices, faces, texture coordinates and texture faces of 0.16 x 0.2 x 0.16 m, cut along the back."""
    latitude = torch.linspace(0, math.pi, rings)
    vertices = [torch.tensor([[0.0, 0.1, 0.0]])]
    for angle in latitude[1:-1]:
        around = torch.arange(segments) / segments * 2 * math.pi
        x, z = -0.08 * angle.sin() * around.sin(), -0.08 * angle.sin() * around.cos()
        vertices.append(torch.stack([x, torch.full_like(x, 0.1 * float(angle.cos())), z], 1))
    vertices.append(torch.tensor([[0.0, -0.1, 0.0]]))

    def vertex(ring: int, segment: int) -> int:
        if ring in (0, rings - 1):
            return 0 if ring == 0 else 1 + (rings - 2) * segments
        return 1 + (ring - 1) * segments + segment % segments

    def texture(ring: int, segment: int) -> int:
        return ring * (segments + 1) + segment

    faces, uv_faces = [], []
    for ring in range(rings - 1):
        for segment in range(segments):
            corners = [(ring, segment), (ring + 1, segment), (ring + 1, segment + 1), (ring, segment + 1)]
            for triangle in ([0, 1, 2], [0, 2, 3]):
                at = [corners[k] for k in triangle]
                if len({vertex(*corner) for corner in at}) == 3:
                    faces.append([vertex(*corner) for corner in at])
                    uv_faces.append([texture(*corner) for corner in at])
    v, u = torch.meshgrid(torch.linspace(1, 0, rings), torch.linspace(0, 1, segments + 1), indexing="ij")
    uv_coords = torch.stack([u, v], -1).reshape(-1, 2)
    return torch.cat(vertices), torch.tensor(faces), uv_coords, torch.tensor(uv_faces)


@pytest.fixture
def model(tiny_model: dict[str, Any], toy_head: HeadAssets) -> Safa:
    """Random weights. Its BatchNorms have seen noise, or every picture would come out the same grey."""
    torch.manual_seed(0)
    model = Safa(parse_settings({**tiny_model, "num_keypoints": 4}, ModelConfig, "test"), toy_head)
    nn.init.normal_(model.tdmm.encoder.fc.weight, std=0.005)
    nn.init.normal_(model.kp_detector.jacobian.weight, std=0.05)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the statistics of all passes
    model.train()
    with torch.no_grad():
        for _ in range(2):
            images = torch.rand(4, 3, 32, 32)
            model.reenact(model.prepare_source(images), model.analyse(images.flip(0)))
    return model.eval()


@pytest.fixture(scope="session")
def head_file(tmp_path_factory: pytest.TempPathFactory, toy_head: HeadAssets) -> Path:
    path = tmp_path_factory.mktemp("head") / "toy.npz"
    toy_head.save(path)
    return path


@pytest.fixture
def make_config(
    tmp_path: Path, tiny_clips: Path, tiny_model: dict[str, Any], head_file: Path
) -> Callable[..., TrainConfig]:
    """``make_config("full", {"step.accumulate": 2}, length=4)``: settings with changes by dotted name."""

    def make(kind: str, changes: dict[str, Any] | None = None, *, length: int = 4) -> TrainConfig:
        data: dict[str, Any] = {
            "runs": str(tmp_path / "runs"),
            "name": kind,
            "model": tiny_model | {"head": tiny_model["head"] | {"assets": str(head_file)}},
            "data": {"clips": str(tiny_clips), "batch_size": 2, "num_repeats": 2, "cache_mb": 1},
            "stage": {"kind": kind},
            "schedule": {"unit": "steps", "length": length},
            "checkpoint": {"every": 2},
            "validate_on": {"every": 2, "clips": 1, "frames": 2},
            "log_every": 1,
        }
        for name, value in (changes or {}).items():
            *parents, leaf = name.split(".")
            node = data
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
        return parse_settings(data, TrainConfig, "test")

    return make


@pytest.fixture
def take_steps() -> Callable[..., list[dict[str, float]]]:
    """``take_steps(config, 3, batch)``: losses of so many steps on one batch, by default the run's first."""

    def take(
        config: TrainConfig, steps: int, batch: FrameBatch | PairBatch | None = None
    ) -> list[dict[str, float]]:
        torch.manual_seed(config.seed)
        context = LocalContext()
        chosen: Any = batch or next(TrainingDataLoader(config, context).batches(0, 1))
        stage = make_stage(config, context)
        stage.train_mode()
        taken = [stage.step([chosen], torch.Generator().manual_seed(0)) for _ in range(steps)]
        return [{name: float(value) for name, value in terms.items()} for terms in taken]

    return take


@pytest.fixture(scope="session")
def synthetic_people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people in two videos of ten frames, 128 px, whose faces dlib finds; without their landmarks."""
    from safa.config.synthetic import SyntheticConfig
    from safa.synthetic import write_dataset

    folder = tmp_path_factory.mktemp("people")
    config = SyntheticConfig(
        seed=4,
        num_people=2,
        num_held_out=1,
        videos_per_person=1,
        two_clip_share=0.0,
        frames_per_video=10,
        frame_size=(128, 128),
        face_share=(0.55, 0.6),
    )
    write_dataset(config, folder, workers=1)
    for sidecar in folder.rglob("*.landmarks.npy"):
        sidecar.unlink()
    return folder
