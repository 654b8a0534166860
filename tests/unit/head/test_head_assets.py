"""The head's arrays: kept whole, refused when they do not fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from safa.config.model import HeadConfig, ModelConfig
from safa.errors import UserError
from safa.head import load_head_assets
from safa.head.assets import HeadAssets
from safa.models.tdmm import Tdmm

FIELDS = [field.name for field in dataclasses.fields(HeadAssets)]


def _assert_equal(one: HeadAssets, other: HeadAssets) -> None:
    for name in FIELDS:
        assert torch.equal(getattr(one, name), getattr(other, name)), name


def test_saving_and_loading_keeps_every_bit(toy_head: HeadAssets, tmp_path: Path) -> None:
    path = tmp_path / "new" / "head.npz"
    toy_head.save(path)
    _assert_equal(HeadAssets.load(path), toy_head)
    assert [file.name for file in path.parent.iterdir()] == ["head.npz"]


def test_a_config_names_the_file(toy_head: HeadAssets, tmp_path: Path) -> None:
    toy_head.save(tmp_path / "head.npz")
    _assert_equal(load_head_assets(HeadConfig(assets=tmp_path / "head.npz")), toy_head)


def test_a_state_dict_gives_its_head_back(toy_head: HeadAssets) -> None:
    config = ModelConfig(head=HeadConfig(encoder_width=0.1))
    state = Tdmm(config, toy_head).state_dict()
    head = HeadAssets.from_state_dict(state)
    torch.testing.assert_close(head.uv_coords, toy_head.uv_coords)
    _assert_equal(dataclasses.replace(head, uv_coords=toy_head.uv_coords), toy_head)
    again = Tdmm(config, head).state_dict()
    fixed = [name for name in state if not name.startswith("encoder.")]
    assert all(torch.equal(state[name], again[name]) for name in fixed)


def test_a_state_dict_without_a_head_is_refused() -> None:
    with pytest.raises(UserError, match=r"no 'flame\.shapedirs'"):
        HeadAssets.from_state_dict({"encoder.fc.weight": torch.zeros(1)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"shapedirs": torch.zeros(3, 3, 100)},
            r"'shapedirs' has shape .*, expected \(98, 3, 100\)",
        ),
        ({"v_template": torch.zeros(98, 3, dtype=torch.float64)}, "'v_template' is torch.float64"),
        ({"lbs_weights": torch.full((98, 5), torch.nan)}, "'lbs_weights' holds numbers that are not finite"),
        ({"full_lmk_faces": torch.full((68,), 10**6)}, r"'full_lmk_faces' points outside 0\.\."),
        ({"static_lmk_faces": torch.full((51,), -1)}, r"'static_lmk_faces' points outside 0\.\."),
        ({"parents": torch.tensor([-1, 2, 0, 1, 1])}, "'parents' is no tree"),
        ({"face_mask": torch.zeros(8, 4)}, "'face_mask' has shape"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    changes: dict[str, torch.Tensor], message: str, toy_head: HeadAssets
) -> None:
    with pytest.raises(UserError, match=message):
        dataclasses.replace(toy_head, **changes).validate()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.npz: no such head file"):
        HeadAssets.load(tmp_path / "nowhere.npz")


@pytest.mark.parametrize("content", [b"", b"not a zip file", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "head.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"readable \.npz"):
        HeadAssets.load(path)


def test_a_truncated_file_is_refused(toy_head: HeadAssets, tmp_path: Path) -> None:
    path = tmp_path / "head.npz"
    toy_head.save(path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"readable \.npz"):
        HeadAssets.load(path)


def test_a_missing_array_is_named(tmp_path: Path) -> None:
    path = tmp_path / "head.npz"
    np.savez(path, v_template=np.zeros((3, 3), np.float32))
    with pytest.raises(UserError, match="no array named"):
        HeadAssets.load(path)


def test_pickled_objects_are_never_read(toy_head: HeadAssets, tmp_path: Path) -> None:
    arrays = {name: getattr(toy_head, name).numpy() for name in FIELDS}
    arrays["v_template"] = np.array([{}], dtype=object)
    np.savez(tmp_path / "head.npz", **arrays)
    with pytest.raises(UserError, match="not numbers"):
        HeadAssets.load(tmp_path / "head.npz")
