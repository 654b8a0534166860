"""FLAME and DECA files: read whole, refused when they lie, and never run."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safa.errors import UserError
from safa.head.assets import HeadAssets
from safa.head.flame_files import FlameFiles, read_flame_model, read_head_assets, read_texture_layout

GOLDEN = Path(__file__).parents[4] / "shared" / "golden"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> FlameFiles:
    source = GOLDEN / "assets"
    if not source.is_dir():
        pytest.skip("real-format FLAME files (../shared/golden/assets) are not here")
    folder = tmp_path_factory.mktemp("flame")
    model = folder / "generic_model.pkl"
    model.write_bytes(gzip.decompress((source / "generic_model.pkl.gz").read_bytes()))
    for name in ("head_template.obj", "landmark_embedding.npy", "uv_face_mask.png", "uv_face_eye_mask.png"):
        shutil.copyfile(source / name, folder / name)
    return FlameFiles(model, folder / "head_template.obj", folder / "landmark_embedding.npy", folder)


def test_real_format_files_give_the_known_model(files: FlameFiles, tmp_path: Path) -> None:
    assets = read_head_assets(files)
    with np.load(GOLDEN / "flame_synth.npz") as known:
        np.testing.assert_array_equal(assets.v_template, known["v_template"])
        np.testing.assert_array_equal(assets.faces, known["faces"])
        directions = known["shapedirs150_f16"].astype(np.float32)
        np.testing.assert_array_equal(assets.shapedirs, directions[..., :100])
        np.testing.assert_array_equal(assets.expressiondirs, directions[..., 100:])
        np.testing.assert_array_equal(assets.posedirs, known["posedirs_f16"].astype(np.float32))
        np.testing.assert_allclose(assets.J_regressor, known["J_regressor"], atol=1e-7)
        np.testing.assert_allclose(assets.lbs_weights, known["weights"], atol=1e-7)
    assert assets.parents.tolist() == [-1, 0, 1, 1, 1]
    assert assets.uv_coords.shape == (5118, 2)
    assets.save(tmp_path / "flame.npz")
    again = HeadAssets.load(tmp_path / "flame.npz")
    np.testing.assert_array_equal(again.uv_faces, assets.uv_faces)


class _Runs:
    """Pickles to a call."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.victim),)


def test_a_model_that_runs_code_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "made"
    path = tmp_path / "generic_model.pkl"
    path.write_bytes(pickle.dumps({"v_template": _Runs(victim)}, 2))
    with pytest.raises(UserError, match=r"generic_model\.pkl: refused to unpickle"):
        read_flame_model(path)
    assert not victim.exists()


def test_a_landmark_file_that_runs_code_is_refused(files: FlameFiles, tmp_path: Path) -> None:
    victim = tmp_path / "made"
    path = tmp_path / "landmark_embedding.npy"
    np.save(path, np.array({"static_lmk_faces_idx": _Runs(victim)}, dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="refused to unpickle"):
        read_head_assets(FlameFiles(files.model, files.template, path, files.masks))
    assert not victim.exists()


@pytest.mark.parametrize("name", ["head_template.obj", "uv_face_mask.png", "uv_face_eye_mask.png"])
def test_a_pickle_under_another_name_is_refused(name: str, files: FlameFiles, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    shutil.copytree(files.masks, folder)
    victim = tmp_path / "made"
    (folder / name).write_bytes(pickle.dumps(_Runs(victim), 2))
    with pytest.raises(UserError, match=name):
        read_head_assets(FlameFiles(files.model, folder / "head_template.obj", files.landmarks, folder))
    assert not victim.exists()


def flame_like(num_vertices: int = 12, **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    content: dict[str, Any] = {
        "v_template": rng.random((num_vertices, 3)),
        "f": np.array([[0, 1, 2]], dtype=np.uint32),
        "shapedirs": rng.random((num_vertices, 3, 400)),
        "posedirs": rng.random((num_vertices, 3, 36)),
        "J_regressor": rng.random((5, num_vertices)),
        "kintree_table": np.array([[4294967295, 0, 1, 1, 1], [0, 1, 2, 3, 4]], dtype=np.uint32),
        "weights": rng.random((num_vertices, 5)),
    }
    return {key: value for key, value in (content | changes).items() if value is not None}


@pytest.mark.parametrize("protocol", [2, 4])  # 2020 files are Python 2 pickles, 2023 ones need not be
def test_components_are_taken_from_where_flame_keeps_them(protocol: int, tmp_path: Path) -> None:
    content = flame_like()
    path = tmp_path / "generic_model.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    model = read_flame_model(path)
    np.testing.assert_array_equal(model["shapedirs"], content["shapedirs"][:, :, :100].astype(np.float32))
    np.testing.assert_array_equal(
        model["expressiondirs"], content["shapedirs"][:, :, 300:350].astype(np.float32)
    )
    assert model["parents"].tolist() == [-1, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"weights": None}, "has no 'weights'"),
        ({"weights": np.zeros((12, 4))}, r"'weights' has shape \(12, 4\), expected \(12, 5\)"),
        ({"shapedirs": np.zeros((12, 3, 300))}, "'shapedirs' has shape"),
        ({"posedirs": "text"}, "expected an array, found str"),
        ({"posedirs": np.array(["text"])}, "expected an array of numbers, found one of <U4"),
        ({"v_template": np.array(1.0)}, "'v_template' is one number"),
    ],
)
def test_wrong_arrays_are_named(changes: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "generic_model.pkl"
    path.write_bytes(pickle.dumps(flame_like(**changes), 2))
    with pytest.raises(UserError, match=complaint):
        read_flame_model(path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("v 0 0 0\n", "is not a mesh"),
        ("vt 0 0\nf 1/1 2/1 3/1 4/1\n", "is not a mesh"),
        ("vt 0 0\nf 1 2 3\n", "is not a mesh"),
        ("vt 0 0\nf 1/1 2/1 3/1\nf 1/1 2/1 3/1 4/1\n", "is not a mesh"),
        ("vt 0 x\n", "line 1"),
        ("vt 0 0\nf 1/2 2/1 3/1\n", "not there"),
    ],
)
def test_a_template_without_texture_layout_is_refused(text: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "head_template.obj"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint):
        read_texture_layout(path)
