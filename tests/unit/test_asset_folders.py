"""The folders in which files of others are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from safa.asset_folders import asset_folders, find_asset, torch_hub_folder, user_folder


def test_the_order_of_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAFA_ASSETS", "s3://bucket/assets")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    clone = Path(__file__).parents[2] / "assets"
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    assert asset_folders() == (Path("assets"), clone, "s3://bucket/assets", user_folder(), hub)
    assert asset_folders(tmp_path) == (tmp_path,)
    monkeypatch.delenv("SAFA_ASSETS")
    monkeypatch.chdir(clone.parent)  # the clone's folder is not searched twice
    assert asset_folders() == (Path("assets"), user_folder(), torch_hub_folder())


def test_the_first_file_counts(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders[1:]:
        folder.mkdir()
        (folder / "x.pth").write_text("x")
    assert find_asset("x.pth", folders) == tmp_path / "b" / "x.pth"
    assert find_asset("y.pth", folders) is None
