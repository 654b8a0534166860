"""``reconstruct3d``, ``doctor``, ``inspect``, and ``--help`` of all commands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from safa.app import page as safa_page
from safa.cli import build_parser
from safa.data.video import probe
from safa.inference import head_texture, mesh

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parents[3]


FILES = {"head.ply", "head.glb", "overlay.png", "depth.png", "normals.png", "turntable.mp4"}
FILES |= {f"{name}.{suffix}" for name in ("landmarks", "code") for suffix in ("json", "npz")}


@pytest.fixture(autouse=True)
def small_turntables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_texture, "TEXTURE_SIZE", 64)
    monkeypatch.setattr(mesh, "TURNTABLE_FRAMES", 3)
    monkeypatch.setattr(mesh, "PICTURE_SIZE", 64)
    monkeypatch.setattr(mesh, "TURNTABLE_SIZE", 64)


def test_photos_and_videos_become_heads(
    safa: Run, model: Path, photo: Path, video: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no photo")
    code, out, err = safa(
        *("reconstruct3d", photo, bad, video, "-o", tmp_path / "heads"), "--checkpoint", model, "--no-crop"
    )
    assert code == 0
    assert "reconstructed 2 of 3 inputs" in out
    assert "skipped: " in err
    assert "bad.jpg" in err
    names = {path.name for path in (tmp_path / "heads" / "photo").iterdir()}
    mesh = {"head.obj", "head.mtl", "head.png"}
    assert names == mesh | FILES
    video = tmp_path / "heads" / "driving"
    assert pq.read_metadata(video / "heads.parquet").num_rows == 7
    assert probe(video / "turntable.mp4").width == 64


def test_landmarks_are_in_pixels_of_the_photo(safa: Run, model: Path, photo: Path, tmp_path: Path) -> None:
    safa("reconstruct3d", photo, "-o", tmp_path / "heads", "--checkpoint", model, "--no-crop")
    record = json.loads((tmp_path / "heads" / "photo" / "landmarks.json").read_text())
    assert record["photo"] == {"width": 50, "height": 40}
    assert record["crop_box"] == {"x": 25.0, "y": 20.0, "side": 40.0}
    points = np.array(record["points"])
    assert points.shape == (68, 2)
    assert ((points > -20) & (points < 70)).all()
    code = json.loads((tmp_path / "heads" / "photo" / "code.json").read_text())
    assert [len(code[name]) for name in ("shape", "expression", "rotation", "scale")] == [100, 50, 3, 1]


def test_a_mesh_opens_elsewhere(safa: Run, model: Path, photo: Path, tmp_path: Path) -> None:
    safa("reconstruct3d", photo, "-o", tmp_path / "heads", "--checkpoint", model, "--no-crop")
    lines = (tmp_path / "heads" / "photo" / "head.obj").read_text().splitlines()
    count = {kind: sum(line.startswith(f"{kind} ") for line in lines) for kind in ("v", "vt", "f")}
    corners = np.array(
        [[p.split("/") for p in line.split()[1:]] for line in lines if line.startswith("f ")], int
    )
    assert corners.min() == 1
    assert corners[..., 0].max() == count["v"]
    assert corners[..., 1].max() == count["vt"]


def test_doctor_says_what_is_missing_and_how_to_get_it(safa: Run, tmp_path: Path) -> None:
    code, out, _ = safa("doctor", "--assets", tmp_path)
    assert code == 0
    for word in ("python", "torch", "ffmpeg", "cpu", "gradio", "face detector", "blazefaceback.pth"):
        assert word in out


def test_inspect_counts_and_draws(safa: Run, tiny_clips: Path, tmp_path: Path) -> None:
    code, out, _ = safa("inspect", tiny_clips, "-o", tmp_path / "sheet.png", "--faces", 3)
    assert code == 0
    assert "train: 3 clips of 3 people in 1 video" in out
    assert "test: 1 clip of 1 person in 1 video" in out
    assert "0 of them (0.0%)" in out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[0] > 400
    code, _, err = safa("inspect", tmp_path)
    assert (code, err.count("\n")) == (2, 1)


def test_help_loads_nothing_heavy() -> None:
    """Nothing that takes time is imported before a command runs."""
    code = (
        "import sys, safa, safa.cli\n"
        "safa.cli.build_parser().format_help()\n"
        "heavy = {'torch', 'scipy', 'PIL', 'pyarrow', 'gradio', 'ray', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_command_explains_itself() -> None:
    text = build_parser().format_help()
    for command in ("animate", "swap", "reconstruct3d", "app", "doctor", "inspect", "assets", "checkpoint"):
        assert command in text


def test_the_page_without_gradio_says_how_to_get_it(
    safa: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safa_page.importlib.util, "find_spec", lambda name: None)
    code, _, err = safa("app", "--checkpoint", model)
    assert code == 2
    assert "pip install -e '.[app]'" in err
