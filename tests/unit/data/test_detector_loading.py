"""Detectors by their settings: searches near known faces, and dlib on stored frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from safa.config.preprocess import DetectorConfig, DlibLandmarksConfig, FaceAlignmentLandmarks
from safa.data.detectors import Face, dlib_faces
from safa.data.detectors.loading import DetectorWithTracking, check, load_landmark_detector, of_video
from safa.data.video import read_frames
from safa.errors import UserError

FRAME = np.zeros((64, 64, 3), np.uint8)


def face(x: float) -> Face:
    return Face(x, 10, x + 20, 30, 0.9)


class Scripted:
    """Sees, in frame n, faces at these places; near a place only those within 8 px."""

    def __init__(self, places: Sequence[Sequence[float]]) -> None:
        self._places, self.number, self.searched = places, 0, list[int]()

    def detect(self, frames: Sequence[np.ndarray]) -> list[tuple[Face, ...]]:
        self.searched.append(self.number)
        return [tuple(map(face, self._places[self.number]))]

    def near(self, frame: np.ndarray, known: Face) -> tuple[Face, ...]:
        return tuple(face(x) for x in self._places[self.number] if abs(x - known.left) < 8)


def tracked(places: Sequence[Sequence[float]], every: int) -> tuple[list[list[float]], list[int]]:
    sees = Scripted(places)
    detector = DetectorWithTracking(sees, every)
    seen = []
    for sees.number in range(len(places)):
        (faces,) = detector.detect([FRAME])
        seen.append(sorted(each.left for each in faces))
    return seen, sees.searched


def test_only_some_frames_are_searched_as_a_whole() -> None:
    places = [[10.0 + n, 60.0 - n] for n in range(9)]
    assert tracked(places, 4) == (places, [0, 4, 8])


def test_a_face_that_is_lost_is_searched_everywhere_at_once() -> None:
    places = [[10.0], [10.0], [50.0], [50.0], [], []]
    assert tracked(places, 99) == (places, [0, 2, 4, 5])


def test_a_detector_without_a_search_nearby_stays_as_it_is() -> None:
    class Plain:
        def detect(self, frames: Sequence[np.ndarray]) -> list[tuple[Face, ...]]:
            return [() for _ in frames]

    plain = Plain()
    assert of_video(plain, 5) is plain
    assert isinstance(of_video(Scripted([]), 5), DetectorWithTracking)


def test_settings_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sfd needs weights"):
        DetectorConfig(name="sfd")
    with pytest.raises(ValueError, match="dlib takes no weights"):
        DetectorConfig(name="dlib", weights=tmp_path)
    with pytest.raises(ValueError, match="one of its detectors, not dlib"):
        FaceAlignmentLandmarks(kind="face_alignment", detector=DetectorConfig(), weights=tmp_path)


def test_what_is_missing_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    for cached in (dlib_faces._detector, dlib_faces._predictor, dlib_faces._identity):
        cached.cache_clear()
    monkeypatch.setattr(dlib_faces, "missing", lambda: "the package dlib-bin is not installed")
    for config in (DetectorConfig(), DlibLandmarksConfig(kind="auto")):
        with pytest.raises(UserError, match=r"dlib: the package dlib-bin is not installed\. Run `make"):
            check(config)


@pytest.mark.skipif(bool(dlib_faces.missing()), reason=dlib_faces.missing() or "dlib is here")
def test_stored_frames_have_landmarks_where_there_is_a_face(synthetic_people: Path) -> None:
    video = next((synthetic_people / "videos").glob("*.mp4"))
    frames = list(read_frames(video))[:3]
    detector = load_landmark_detector(DlibLandmarksConfig(kind="dlib"))
    found = detector([frames[0], np.zeros_like(frames[0]), frames[1]])
    assert np.isfinite(found.points).all(axis=(1, 2)).tolist() == [True, False, True]
    assert np.isfinite(found.scores).tolist() == [True, False, True]
    alone = detector([frames[1]])
    np.testing.assert_array_equal(alone.points[0], found.points[2])
