"""dlib's detector, landmarks and embeddings on synthetic people, and on real faces where those are here."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safa.data.detectors import all_faces, dlib_faces
from safa.data.detectors.dlib_faces import (
    CROP_SIDES,
    PHOTO_SIDES,
    DlibDetector,
    DlibIdentity,
    DlibLandmarks,
)
from safa.data.detectors.person_tracker import PersonTracker
from safa.data.video import read_frames
from safa.errors import UserError
from safa.inference.trackers import DlibTracker

REAL = Path(__file__).parents[4] / "shared" / "real"
pytestmark = pytest.mark.skipif(bool(dlib_faces.missing()), reason=dlib_faces.missing() or "dlib is here")
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="../shared/real is not here")


@pytest.fixture(scope="module")
def people(synthetic_people: Path) -> list[list[np.ndarray]]:
    """Four frames of each of two synthetic people, 128 px."""
    return [list(read_frames(path))[:4] for path in sorted((synthetic_people / "videos").glob("*.mp4"))]


def _of(frame: np.ndarray) -> np.ndarray:
    (faces,) = DlibDetector((*CROP_SIDES, 1280)).detect([frame])
    return DlibLandmarks().landmarks([frame], [max(faces, key=lambda face: face.area)])[0]


class ColourIdentity:
    """Takes the mean colour of a face for who it is; dlib finds all synthetic people somewhat alike."""

    def embeddings(self, frames: Sequence[np.ndarray], points: np.ndarray) -> np.ndarray:
        found = []
        for frame, face in zip(frames, points, strict=True):
            (left, top), (right, bottom) = face.min(0).astype(int), face.max(0).astype(int)
            found.append(frame[max(0, top) : bottom, max(0, left) : right].mean((0, 1)) / 50)
        return np.array(found, np.float32)


def test_people_differ_more_than_pictures_of_one(people: list[list[np.ndarray]]) -> None:
    frames = [*people[0], *people[1]]
    points = np.stack([_of(frame) for frame in frames])
    found = DlibIdentity().embeddings(frames, points)
    assert found.shape == (8, 128)
    apart = np.linalg.norm(found[:, None] - found, axis=2)
    assert max(apart[:4, :4].mean(), apart[4:, 4:].mean()) < 0.8 * apart[:4, 4:].mean()


def test_what_is_not_there_is_not_found(people: list[list[np.ndarray]]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    assert DlibDetector().detect([noise, np.zeros((40, 16, 3), np.uint8)]) == [(), ()]
    points = np.stack([np.full((68, 2), np.nan, np.float32), _of(people[0][0])])
    found = DlibIdentity().embeddings([noise, people[0][0]], points)
    assert np.isfinite(found).all(axis=1).tolist() == [False, True]
    assert DlibLandmarks().landmarks([], []).shape == (0, 68, 2)


def test_places_are_in_pixels_of_the_frame(people: list[list[np.ndarray]]) -> None:
    """Of a picture that is enlarged, moved into a larger one, or reduced to a quarter."""
    frame, wide = people[0][0], np.zeros((512, 900, 3), np.uint8)
    plain = _of(frame)
    wide[100:228, 500:628] = frame
    assert np.abs(_of(wide) - plain - (500, 100)).mean() < 2
    for size, close in ((64, 0.8), (512, 5.0), (6000, 60.0)):
        scaled = np.asarray(Image.fromarray(frame).resize((size, size), Image.Resampling.BOX))
        assert np.abs(_of(scaled) - plain * size / 128).mean() < close


def test_small_faces_of_a_large_photo_are_found(people: list[list[np.ndarray]]) -> None:
    """Beside a large one, and alone; a video's frames are not searched as closely."""
    photo = np.full((2000, 3000, 3), 90, np.uint8)
    photo[1500:1692, 2500:2692] = np.asarray(Image.fromarray(people[0][0]).resize((192, 192)))
    assert len(all_faces(DlibDetector(PHOTO_SIDES), photo)) == len(DlibTracker().faces(photo)) == 1
    assert all_faces(DlibDetector(), photo) == []
    photo[100:1100, 100:1100] = np.asarray(Image.fromarray(people[1][0]).resize((1000, 1000)))
    large, small = DlibTracker().faces(photo)
    assert large[0] < 1100
    assert small == pytest.approx([2596, 1596, 192], abs=60)


def test_one_person_is_followed_past_another(people: list[list[np.ndarray]]) -> None:
    """Frames without anybody, then the other one alone, then both, the other one larger."""
    one, other = people[0][0], people[1][0]
    one = np.asarray(Image.fromarray(one).resize((256, 256)))
    large = np.asarray(Image.fromarray(other).resize((384, 384))) // np.array([3, 1, 1], np.uint8)

    def shown(*pictures: tuple[np.ndarray, int]) -> np.ndarray:
        frame = np.full((400, 800, 3), 90, np.uint8)
        for picture, x in pictures:
            frame[: len(picture), x : x + len(picture)] = picture
        return frame

    both = shown((large, 10), (one, 450))
    frames = [shown(), shown((one, 10)), shown((one, 16)), shown(), shown((large, 10)), both]
    networks = DlibDetector(), DlibLandmarks(), ColourIdentity()
    seen = list(PersonTracker(*networks).follow(frames))
    assert [each is not None for each in seen] == [False, True, True, False, False, True]
    middles = [None if each is None else float(each.points[:, 0].mean()) for each in seen]
    assert middles[5] - middles[1] == pytest.approx(440, abs=12)  # type: ignore[operator]
    for choice, right in ((1, False), (2, True), ((600.0, 100.0), True), ((100.0, 100.0), False)):
        chosen = PersonTracker(*networks, choice).next(frames[5])
        assert chosen is not None
        assert (chosen.points[:, 0].mean() > 400) == right
    assert PersonTracker(*networks, 3).next(frames[5]) is None


def test_missing_parts_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = importlib.util.find_spec

    def without(name: str) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == name else plain(n))

    without("dlib")
    assert dlib_faces.missing() == "the package dlib-bin is not installed"
    without("face_recognition_models")
    assert dlib_faces.missing() == "the package face-recognition-models is not installed"
    monkeypatch.setattr(dlib_faces, "models_folder", lambda: tmp_path)
    assert "face-recognition-models lacks shape_predictor_68" in dlib_faces.missing()
    for name in (dlib_faces.POINTS_FILE, dlib_faces.IDENTITY_FILE):
        (tmp_path / name).write_bytes(b"<html>")
    assert dlib_faces.missing() == ""
    with pytest.raises(UserError, match="not the network that its name says"):
        dlib_faces._predictor.__wrapped__()


@needs_real
@pytest.mark.parametrize("name", ["lp_s0", "lp_s6", "lp_s9", "lp_s12"])
def test_real_landmarks_are_those_of_another_program(name: str) -> None:
    photo = np.asarray(Image.open(REAL / "images" / f"{name}.jpg").convert("RGB"))
    expected = np.load(REAL / "images" / f"{name}.landmarks.npy").reshape(-1, 68, 2)[0]
    (faces,) = DlibDetector().detect([photo])
    found = DlibLandmarks().landmarks([photo], [faces[0]])[0]
    eyes = np.linalg.norm(expected[36] - expected[45])
    assert np.median(np.linalg.norm(found - expected, axis=1)[17:]) < 0.06 * eyes


@needs_real
def test_real_people_are_distinguished() -> None:
    """Frames of one video are less than 0.45 apart, photos of four people more than 0.55."""
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in sorted((REAL / "images").glob("*.jpg"))]
    frames = list(read_frames(REAL / "clips256" / "safa_02.mp4"))[::40]
    found = [_embedding(picture) for picture in (*photos, *frames)]
    apart = np.linalg.norm(np.array(found)[:, None] - np.array(found), axis=2)
    strangers = apart[:4, :4][~np.eye(4, dtype=bool)]
    assert strangers.min() > 0.55
    assert apart[4:, 4:].max() < 0.45


def _embedding(picture: np.ndarray) -> np.ndarray:
    (faces,) = DlibDetector().detect([picture])
    points = DlibLandmarks().landmarks([picture], [faces[0]])
    return DlibIdentity().embeddings([picture], points)[0]
