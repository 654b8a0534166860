"""Columns that were added later: listed by ``safa inspect``, checked by ``safa dataset verify``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from safa.cli import main
from safa.data.clip_store import ClipStore
from safa.data.columns import PARTS, column_folder, column_names, commit_column, verify_column, write_part


@pytest.fixture
def clips(tmp_path: Path, tiny_clips: Path) -> Path:
    """Four clips with a column of moved landmarks for three of them."""
    folder = tmp_path / "clips"
    shutil.copytree(tiny_clips, folder)
    store = ClipStore(folder)
    moved = [
        # (T, 68, 2) -> (T, 136)
        (store.clip_id(n), [{"landmarks": p.reshape(len(p), -1) + 1} for p in store.landmark_pieces(n)])
        for n in range(3)
    ]
    write_part(column_folder(folder, "moved"), "0" * 32, moved)
    commit_column(column_folder(folder, "moved"), "landmarks")
    return folder


def part_of(clips: Path) -> Path:
    (path,) = (Path(str(column_folder(clips, "moved"))) / PARTS).iterdir()
    return path


def test_a_column_without_damage(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert column_names(clips) == ["moved"]
    assert verify_column(clips, "moved") == []
    assert main(["dataset", "verify", str(clips)]) == 0
    assert ", columns moved: no damage" in capsys.readouterr().out
    assert main(["inspect", str(clips)]) == 0
    assert "column moved: landmarks, of 3 of 4 clips" in capsys.readouterr().out


def test_landmarks_that_lie_elsewhere_are_reported(clips: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = clips.with_name("other")
    store = ClipStore(clips)
    fewer = [
        # (T, 68, 2) -> (T, 136)
        (store.clip_id(n), [{"landmarks": p[: 6 - n].reshape(6 - n, -1)} for p in store.landmark_pieces(n)])
        for n in range(3)
    ]
    write_part(other, "0" * 32, fewer)
    shutil.copyfile(other / PARTS / f"{'0' * 32}.parquet", part_of(clips))
    errors = verify_column(clips, "moved")
    assert any("5 of 6 frames" in error for error in errors)
    assert any("does not begin its landmarks" in error for error in errors)
    assert main(["dataset", "verify", str(clips)]) == 1
    assert "damaged: columns/moved, " in capsys.readouterr().err


def test_a_part_that_cannot_be_read_is_an_error_of_the_column(clips: Path) -> None:
    part_of(clips).write_bytes(b"no parquet")
    (error,) = verify_column(clips, "moved")
    assert error.startswith(f"columns/moved, part {'0' * 32}: ")
