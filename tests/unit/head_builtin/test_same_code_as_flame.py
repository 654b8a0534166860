"""One model class serves the built-in head and FLAME files: same arrays, same outputs, same coefficients."""

from __future__ import annotations

import dataclasses
import gzip
import shutil
from pathlib import Path

import pytest
import torch

from safa.head import builtin
from safa.head.assets import HeadAssets
from safa.head.flame_files import FlameFiles, read_head_assets
from safa.head.model import HeadCode, HeadModel

REAL_FORMAT = Path(__file__).parents[4] / "shared" / "golden" / "assets"


@pytest.fixture(params=["builtin", "flame"])
def assets(request: pytest.FixtureRequest, tmp_path: Path) -> HeadAssets:
    """The built-in head, and one read from files in FLAME's format."""
    if request.param == "builtin":
        return builtin.build().assets
    if not REAL_FORMAT.is_dir():
        pytest.skip("real-format FLAME files (../shared/golden/assets) are not here")
    pickled = tmp_path / "generic_model.pkl"
    with gzip.open(REAL_FORMAT / "generic_model.pkl.gz") as packed, pickled.open("wb") as plain:
        shutil.copyfileobj(packed, plain)
    return read_head_assets(
        FlameFiles(
            pickled, REAL_FORMAT / "head_template.obj", REAL_FORMAT / "landmark_embedding.npy", REAL_FORMAT
        )
    )


def test_same_model_and_conventions(assets: HeadAssets) -> None:
    rest = HeadCode(
        shape=torch.zeros(1, 100),
        expression=torch.zeros(1, 50),
        rotation=torch.zeros(1, 3),
        jaw=torch.zeros(1, 3),
        scale=torch.full((1, 1), 10.0),
        translation=torch.zeros(1, 2),
    )
    model = HeadModel(assets).eval()
    with torch.no_grad():
        still = model(rest)
        turned = model(rest.replace(rotation=torch.tensor([[0.0, 0.5, 0.0]])))
    assert still.vertices.shape == (1, assets.num_vertices, 3)
    x, y = still.landmarks[0, :, 0], still.landmarks[0, :, 1]
    assert x[36] < 0 < x[45]  # the subject's right eye is at the picture's left
    assert y[19] < y[37] < y[33] < y[51] < y[8]  # brow, eye, nose, lip, chin: y points down
    assert turned.landmarks[0, 30, 0] > still.landmarks[0, 30, 0] + 0.2  # a positive yaw turns to the right
    eyes = torch.linalg.norm(still.landmarks[0, 45] - still.landmarks[0, 36])
    assert 0.75 < eyes < 1.15  # outer corners, 0.1 m is 1 at this scale


def test_same_arrays(assets: HeadAssets) -> None:
    assets.validate()
    ours = builtin.build().assets
    for field in dataclasses.fields(HeadAssets):
        mine, theirs = getattr(ours, field.name), getattr(assets, field.name)
        assert mine.dtype == theirs.dtype, field.name
        assert mine.ndim == theirs.ndim, field.name
