"""Networks in Ray actors: from videos over face tracks to clips with real BlazeFace; landmarks with FAN."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipelines import preprocess
from safa.config.preprocess import (
    ClipsSource,
    DetectorConfig,
    FaceAlignmentLandmarks,
    PreprocessConfig,
    VideosSource,
)
from safa.data.clip_store import ClipStore
from safa.data.people import read_people
from safa.data.video import read_frames, write_video
from safa.errors import UserError

pytest.importorskip("face_alignment", reason="face-alignment is not installed")
SHARED = Path(__file__).parents[3] / "shared"
SHORT = 84  # frames of a real video, at 30 a second: a clip of 70 at 25

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ray,
    pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="../shared/weights is not here"),
]


def _detector() -> DetectorConfig:
    return DetectorConfig(name="blazeface", weights=SHARED / "weights", batch=8)


def test_raw_videos_become_clips_or_have_a_reason(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    real = SHARED / "real" / "raw" / "lp_d18.mp4"
    write_video(videos / real.name, islice(read_frames(real), SHORT), 30.0)
    points = np.load(real.with_suffix(".landmarks.npy"), allow_pickle=False)
    np.save(videos / "lp_d18.landmarks.npy", points[:SHORT])
    write_video(videos / "faceless.mp4", (np.full((90, 120, 3), n, np.uint8) for n in range(30)), 25.0)
    (videos / "broken.mp4").write_bytes(b"no video")
    (videos / "not a name.mp4").write_bytes(b"no video")
    source = VideosSource(kind="videos", folder=videos, detector=_detector())
    config = PreprocessConfig(source=source, out=tmp_path / "out", size=64)
    summary = preprocess.preprocess(config)
    assert (summary.total, summary.ok, summary.pending) == (4, 1, 0)
    assert summary.reasons == {"no_face": 1, "decode": 1, "bad_row": 1}
    (info,) = ClipStore(config.out / "clips").clips()
    assert (info.clip_id, info.fps) == ("lp_d18#lp_d18#000000#000070", 25.0)
    points = ClipStore(config.out / "clips").landmarks(info.clip_id)
    assert np.isfinite(points).all()
    assert 0 < points.min() < points.max() < 64  # the landmarks of the video lie inside the crop
    before = {path: path.stat().st_mtime_ns for path in config.out.rglob("*.*") if "summary" not in path.name}
    assert preprocess.preprocess(config) == summary
    always = ("manifest.json", ".lock")  # are written by every run
    assert all(path.stat().st_mtime_ns == t for path, t in before.items() if path.name not in always)
    (person,) = read_people(config.out)
    assert (person.name, person.split, person.embedded) == ("lp_d18", "train", 1)


@pytest.mark.soak
def test_pngs_get_landmarks_from_the_network(tmp_path: Path) -> None:
    from face_alignment.models import FAN

    folder = tmp_path / "crops" / "p1#v1#000000#000004"
    folder.mkdir(parents=True)
    with Image.open(SHARED / "real" / "images" / "lp_s6.jpg") as photo:
        for number in range(4):
            photo.resize((256, 256)).save(folder / f"{number:07d}.png")
    landmarks = FaceAlignmentLandmarks(kind="face_alignment", detector=_detector(), weights=tmp_path)
    source = ClipsSource(kind="clips", folder=tmp_path / "crops")
    config = PreprocessConfig(source=source, out=tmp_path / "out", landmarks=landmarks, min_frames=4)
    with pytest.raises(UserError, match=r"2DFAN4-11f355bf06\.pth\.tar are missing"):
        preprocess.preprocess(config)
    assert not config.out.exists()
    torch.save(FAN(4).state_dict(), tmp_path / "2DFAN4-11f355bf06.pth.tar")
    assert preprocess.preprocess(config).ok == 1
    (path,) = (config.out / "clips" / "shards").iterdir()
    rows = pq.read_table(path).to_pylist()
    assert all(np.isfinite(row["landmarks"]).all() and row["face_score"] > 0.5 for row in rows)
    assert json.loads((config.out / "summary.json").read_text())["frames_with_landmarks"] == 1.0
