"""Face tracking: which detector is used, and how one face is followed."""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from safa.data.detectors import Face
from safa.data.detectors.face_alignment import DETECTOR_FILES
from safa.data.video import write_video
from safa.errors import UserError
from safa.inference.face_crop import crop_box_of_landmarks
from safa.inference.face_tracking import FaceSearch, track_video
from safa.inference.inputs import open_frame_source
from safa.inference.photos import read_photo
from safa.inference.trackers import (
    DetectorTracker,
    crop_box_of_face,
    detector_status,
    load_face_tracker,
)
from safa.visualize.images import RgbImage

SHARED = Path(__file__).parents[4] / "shared"


class ScriptedDetector:
    """Detects what the test says, in frames of 64 x 64 px."""

    def __init__(self, faces: list[tuple[Face, ...]]) -> None:
        self._faces = iter(faces)

    def detect(self, frames: Sequence[RgbImage]) -> list[tuple[Face, ...]]:
        assert all(frame.shape == (64, 64, 3) for frame in frames)
        return [next(self._faces) for _ in frames]


def _face(x: float, side: float) -> Face:
    return Face(x - side / 2, 20 - side / 2, x + side / 2, 20 + side / 2, 0.9)


def _frames(count: int) -> list[RgbImage]:
    return [np.zeros((72, 128, 3), np.uint8)] * count


def test_the_largest_face_is_followed_and_found_again() -> None:
    near, far = _face(20, 16), _face(50, 10)
    stranger = _face(50, 20)  # somebody else comes closer
    detections = [(far, near), (near, stranger), (), (far,), (far, near)]
    crop_boxes = list(DetectorTracker(ScriptedDetector(detections), 64).crop_boxes(_frames(5)))
    assert [float(crop_box[0]) for crop_box in crop_boxes] == pytest.approx(
        [40, 40, np.nan, 100, 100], nan_ok=True
    )


def test_crop_boxes_are_in_pixels_of_the_frame() -> None:
    crop_box = next(DetectorTracker(ScriptedDetector([(_face(20, 16),)]), 64).crop_boxes(_frames(1)))
    assert crop_box == pytest.approx(crop_box_of_face(_face(20, 16)) * 2)
    assert crop_box[0] == pytest.approx(40)


def test_all_faces_come_largest_first() -> None:
    crop_boxes = DetectorTracker(ScriptedDetector([(_face(50, 10), _face(20, 16))]), 64).faces(_frames(1)[0])
    assert [round(float(crop_box[0])) for crop_box in crop_boxes] == [40, 100]


def test_without_weights_there_is_no_detector(tmp_path: Path) -> None:
    assert detector_status([tmp_path]).detector is None
    assert load_face_tracker(torch.device("cpu"), [tmp_path], "none") is None
    with pytest.raises(UserError, match=r"no s3fd-619a316812\.pth or blazefaceback\.pth and"):
        load_face_tracker(torch.device("cpu"), [tmp_path], "fan")
    for name in DETECTOR_FILES["blazeface"]:
        (tmp_path / name).write_text("x")
    found = detector_status([tmp_path / "none", tmp_path])
    assert (found.detector, found.folder) == ("blazeface", tmp_path)


@pytest.mark.parametrize("name", ["lp_s0", "lp_s6", "lp_s9", "lp_s12"])
def test_real_faces_are_cropped_as_by_their_landmarks(name: str) -> None:
    photo = SHARED / "real" / "images" / f"{name}.jpg"
    if not photo.is_file() or detector_status([SHARED / "weights"]).detector is None:
        pytest.skip("the real photos or the detector's weights (../shared) are not here")
    if importlib.util.find_spec("face_alignment") is None:
        pytest.skip("face-alignment is not installed")
    face_tracker = load_face_tracker(torch.device("cpu"), [SHARED / "weights"], "fan")
    assert face_tracker is not None
    prediction = face_tracker.faces(read_photo(photo).pixels)[0]
    target = crop_box_of_landmarks(np.load(photo.with_suffix(".landmarks.npy"), allow_pickle=False))[0]
    assert np.abs(prediction[:2] - target[:2]).max() < 0.06 * target[2]
    assert 0.85 < prediction[2] / target[2] < 1.15


@pytest.mark.parametrize(
    ("rows", "note"), [(8, ""), (5, "landmarks of 5 frames, the video has 8"), (11, "of 11 frames")]
)
@pytest.mark.parametrize("suffix", [".landmarks.npy", ".pkl"])
def test_landmarks_of_another_length_than_the_video_are_reported(
    rows: int, note: str, suffix: str, tmp_path: Path
) -> None:
    write_video(tmp_path / "v.mp4", [np.zeros((64, 64, 3), np.uint8)] * 8, 25.0)
    points = np.random.default_rng(0).uniform(16, 48, (rows, 68, 2)).astype(np.float32)
    points[1, 7] = np.nan  # a face with a point that is none was not found
    if suffix == ".pkl":
        (tmp_path / "v.pkl").write_bytes(pickle.dumps(dict(enumerate(points))))
    else:
        np.save(tmp_path / "v.landmarks.npy", points)
    tracked = track_video(open_frame_source(tmp_path / "v.mp4"), FaceSearch(), crop=True)
    assert len([*tracked.open()]) == 8
    about = [line for line in tracked.notes if "landmarks of" in line]
    assert [note in line for line in about] == [True] * bool(note)
    assert any("no face in" in line for line in tracked.notes)
    short = open_frame_source(tmp_path / "v.mp4").limited(3)  # more landmarks than frames say nothing then
    assert not [line for line in track_video(short, FaceSearch(), crop=True).notes if "landmarks of" in line]
