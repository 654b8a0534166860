"""The synthetic data set on disk: complete, repeatable, restartable, and in agreement with the head model."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from safa.config import load_settings
from safa.config.synthetic import SyntheticConfig
from safa.data.video import read_frames
from safa.errors import UserError
from safa.head.model import landmarks_px
from safa.synthetic import write_dataset
from safa.synthetic.scene import build_scene, head_model
from safa.synthetic.truth import Canvas, landmarks_in_frame, load_truth, travel
from safa.synthetic.writer import COLUMNS, video_jobs

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = SyntheticConfig(
    seed=3,
    num_people=3,
    num_held_out=1,
    videos_per_person=2,
    frames_per_video=22,
    two_clip_share=0.5,
    frame_size=(128, 112),
)
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "set"
    write_dataset(CONFIG, out, workers=1)
    return out


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "videos").iterdir())}


def test_every_video_has_its_three_files_and_nothing_else_is_left(folder: Path) -> None:
    expected = {
        f"{job.video_id}{ending}"
        for job in video_jobs(CONFIG)
        for ending in (".mp4", ".landmarks.npy", ".truth.npz")
    }
    assert set(_contents(folder)) == expected
    assert {path.name for path in folder.iterdir()} == {
        "videos",
        "metadata.csv",
        "summary.json",
        "settings.json",
    }


def test_the_list_of_clips(folder: Path) -> None:
    rows = _rows(folder)
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) > 6  # some videos give two clips
    assert {row["video_id"] for row in rows} == {job.video_id for job in video_jobs(CONFIG)}
    for row in rows:
        left, top, right, bottom = map(int, row["bbox"].split("-"))
        assert 0 <= left < right <= int(row["width"]) == 112
        assert 0 <= top < bottom <= int(row["height"]) == 128
        assert 0 <= int(row["start"]) < int(row["end"]) <= CONFIG.frames_per_video
        assert row["fps"] == "25"


def test_held_out_people_are_test_and_only_they(folder: Path) -> None:
    people: dict[str, set[str]] = {"train": set(), "test": set()}
    for row in _rows(folder):
        people[row["partition"]].add(row["person_id"])
    assert len(people["test"]) == CONFIG.num_held_out
    assert len(people["train"]) == CONFIG.num_people - CONFIG.num_held_out
    assert not people["test"] & people["train"]


def test_boxes_hold_the_landmarks_of_their_clips(folder: Path) -> None:
    for row in _rows(folder):
        points = np.load(folder / "videos" / f"{row['video_id']}.landmarks.npy")
        points = points[int(row["start"]) : int(row["end"])].reshape(-1, 2)
        left, top, right, bottom = map(int, row["bbox"].split("-"))
        assert points.min(axis=0)[0] >= left
        assert points.min(axis=0)[1] >= top
        assert points.max(axis=0)[0] <= right
        assert points.max(axis=0)[1] <= bottom


def test_the_truth_gives_the_landmarks_through_the_head_model(folder: Path) -> None:
    height, width = CONFIG.frame_size
    side = max(height, width)
    for job in video_jobs(CONFIG):
        points = np.load(folder / "videos" / f"{job.video_id}.landmarks.npy")
        assert points.shape == (CONFIG.frames_per_video, 68, 2)
        assert points.dtype == np.float32
        track, _, _ = load_truth(folder / "videos" / f"{job.video_id}.truth.npz")
        with torch.inference_mode():
            canvas = landmarks_px(head_model()(track.code()), side).numpy()
        in_frame = canvas - np.array([(side - width) // 2, (side - height) // 2])
        np.testing.assert_allclose(points, in_frame, atol=2e-3)


def test_videos_decode_to_frames_of_the_settings(folder: Path) -> None:
    video = folder / "videos" / f"{video_jobs(CONFIG)[0].video_id}.mp4"
    frames = list(read_frames(video))
    assert len(frames) == CONFIG.frames_per_video
    assert frames[0].shape == (*CONFIG.frame_size, 3)


def test_a_second_run_makes_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (folder / "videos").iterdir()}
    assert write_dataset(CONFIG, folder, workers=1).made == 0
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "videos").iterdir()}


@pytest.mark.slow
def test_a_restart_makes_only_what_is_missing_with_any_number_of_processes(folder: Path) -> None:
    whole = _contents(folder)
    videos = folder / "videos"
    movies = sorted(videos.glob("*.mp4"))
    gone, kept = [movies[1], movies[4]], [movies[0], movies[2], movies[3], movies[5]]
    for movie in gone:
        movie.unlink()
    (videos / ".tmp-half.mp4").write_bytes(b"what a killed process left")
    times = [movie.stat().st_mtime_ns for movie in kept]
    seen: list[tuple[int, int]] = []
    summary = write_dataset(CONFIG, folder, workers=2, progress=lambda *state: seen.append(state))
    assert summary.made == 2
    assert seen == [(5, 6), (6, 6)]
    assert _contents(folder) == whole
    assert times == [movie.stat().st_mtime_ns for movie in kept]


def test_a_folder_of_other_settings_is_refused(folder: Path) -> None:
    before = _contents(folder)
    with pytest.raises(UserError, match="other settings"):
        write_dataset(CONFIG.model_copy(update={"seed": 4}), folder, workers=1)
    assert _contents(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["synthetic.yaml", "smoke/synthetic.yaml"])
def test_held_out_people_move_no_less_than_the_others(name: str) -> None:
    config = load_settings(ROOT / "configs" / name, SyntheticConfig)
    ways: dict[bool, list[float]] = {True: [], False: []}
    for job in video_jobs(config.model_copy(update={"videos_per_person": 1})):
        scene = build_scene(config, job.person, job.video, job.held_out)
        points = landmarks_in_frame(scene.track, Canvas.around(config.frame_size), head_model())
        ways[job.held_out] += [travel(points[start:end]) for start, end in scene.spans]
    assert np.mean(ways[True]) >= np.mean(ways[False])
    assert np.mean(ways[False]) > 0.06  # of the box: 4 px at 64 px
    assert min(ways[True] + ways[False]) > 0.03


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="num_held_out"):
        SyntheticConfig(num_people=2, num_held_out=2)
    with pytest.raises(ValueError, match="even"):
        SyntheticConfig(frame_size=(101, 96))
