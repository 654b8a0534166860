"""Detection with real BlazeFace weights; the landmark network's true code path with random ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from safa.config.preprocess import DetectorConfig, FaceAlignmentLandmarks, FaceTrackConfig, VideosSource
from safa.data.crop import Box
from safa.data.detectors import Face, iou
from safa.data.detectors.face_alignment import (
    LANDMARK_FILE,
    NUM_HOURGLASSES,
    LibraryDetector,
    LibraryLandmarks,
    check,
)
from safa.data.face_tracks import find_face_tracks, list_tracked_clips, read_tracks, tracks_file, write_tracks
from safa.data.sources import list_jobs
from safa.errors import UserError
from safa.files import Entry

pytest.importorskip("face_alignment", reason="face-alignment is not installed")
SHARED = Path(__file__).parents[4] / "shared"
WEIGHTS, REAL = SHARED / "weights", SHARED / "real"
needs_weights = pytest.mark.skipif(not WEIGHTS.is_dir(), reason="../shared/weights is not here")
needs_videos = pytest.mark.skipif(not (WEIGHTS.is_dir() and REAL.is_dir()), reason="../shared is not here")


@pytest.fixture(autouse=True)
def _no_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("weights must never be downloaded")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A landmark network of the right shapes that has learned nothing."""
    from face_alignment.models import FAN

    folder = tmp_path_factory.mktemp("fan")
    torch.manual_seed(0)
    torch.save(FAN(NUM_HOURGLASSES).state_dict(), folder / LANDMARK_FILE)
    yield folder
    (folder / LANDMARK_FILE).unlink()  # 90 MB


def _blaze(name: str = "blazeface", weights: Path = WEIGHTS) -> DetectorConfig:
    return DetectorConfig.model_validate({"name": name, "weights": weights, "batch": 8})


def _photo(name: str = "lp_s6") -> tuple[np.ndarray, Face]:
    """A real photo and the box around its landmarks."""
    picture = np.asarray(Image.open(REAL / "images" / f"{name}.jpg").convert("RGB"))
    points = np.load(REAL / "images" / f"{name}.landmarks.npy").reshape(-1, 2)[:68]
    return picture, Face(*points.min(0), *points.max(0), 1.0)


@needs_videos
@pytest.mark.parametrize("name", ["blazeface", "blazeface_back"])
@pytest.mark.parametrize("photo", ["lp_s0", "lp_s6", "lp_s12"])
def test_the_face_of_a_photo_is_found(name: str, photo: str) -> None:
    picture, expected = _photo(photo)
    faces = LibraryDetector(_blaze(name)).detect([picture, picture])
    assert len(faces) == 2
    assert max(iou(face, expected) for face in faces[0]) > 0.5
    assert faces[0] == faces[1]


@needs_videos
def test_a_face_beside_the_middle_square_is_found() -> None:
    picture, expected = _photo()
    wide = np.zeros((picture.shape[0], 3 * picture.shape[1], 3), np.uint8)
    wide[:, : picture.shape[1]] = picture
    (faces,) = LibraryDetector(_blaze("blazeface_back")).detect([wide])
    assert max(iou(face, expected) for face in faces) > 0.5


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the weights blazeface\.pth are missing"):
        check(_blaze(weights=tmp_path))


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    for name in ("blazeface.pth", "anchors.npy"):
        (tmp_path / name).write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match="not the weights of blazeface"):
        check(_blaze(weights=tmp_path))


@needs_weights
def test_landmark_weights_are_checked_too(tmp_path: Path) -> None:
    config = FaceAlignmentLandmarks(kind="face_alignment", detector=_blaze(), weights=tmp_path)
    with pytest.raises(UserError, match=f"the weights {LANDMARK_FILE} are missing"):
        check(config)
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / LANDMARK_FILE)
    with pytest.raises(UserError, match="not the weights of the landmark network"):
        check(config)


@needs_videos
@pytest.mark.parametrize("flip", [False, True])
def test_a_batch_of_landmarks_is_what_the_package_gives_one_by_one(random_weights: Path, flip: bool) -> None:
    from face_alignment import FaceAlignment, LandmarksType

    config = FaceAlignmentLandmarks(
        kind="face_alignment", detector=_blaze(), weights=random_weights, flip=flip
    )
    face_tracker = LibraryLandmarks(config)
    pictures = [
        np.asarray(Image.fromarray(_photo(name)[0]).resize((256, 256))) for name in ("lp_s6", "lp_s12")
    ]
    faces = [max(found, key=lambda face: face.area) for found in face_tracker._detector.detect(pictures)]
    ours = face_tracker.landmarks(pictures, faces)

    theirs = object.__new__(FaceAlignment)  # its constructor would fetch
    theirs.landmarks_type, theirs.flip_input, theirs.max_batch_size = LandmarksType.TWO_D, flip, 1
    theirs.device, theirs.dtype, theirs.verbose = "cpu", torch.float32, False
    theirs.face_detector, theirs.face_alignment_net = face_tracker._detector._detector, face_tracker._network
    for picture, face, points in zip(pictures, faces, ours, strict=True):
        box = np.array([face.left, face.top, face.right, face.bottom, face.score])
        (expected,) = theirs.get_landmarks_from_image(picture, detected_faces=[box])
        np.testing.assert_allclose(points, expected, atol=1e-3)


@needs_videos
def test_frames_without_a_face_have_no_landmarks(random_weights: Path) -> None:
    config = FaceAlignmentLandmarks(kind="face_alignment", detector=_blaze(), weights=random_weights)
    face = np.asarray(Image.fromarray(_photo()[0]).resize((256, 256)))
    marked = LibraryLandmarks(config)([np.zeros_like(face), face])
    assert marked.points.shape == (2, 68, 2)
    assert np.isnan(marked.points[0]).all()
    assert np.isnan(marked.scores[0])
    assert np.isfinite(marked.points[1]).all()
    assert marked.scores[1] > 0.5


@pytest.fixture(scope="module")
def real_tracks(tmp_path_factory: pytest.TempPathFactory) -> tuple[VideosSource, list[Entry], Path]:
    """Face tracks of the shortest real video, found by BlazeFace and kept in a file."""
    if not REAL.is_dir() or not WEIGHTS.is_dir():
        pytest.skip("../shared is not here")
    source = VideosSource(
        kind="videos", folder=REAL / "raw", detector=_blaze(), face_tracks=FaceTrackConfig()
    )
    video = REAL / "raw" / "lp_d18.mp4"
    folder = tmp_path_factory.mktemp("face tracks")
    write_tracks(folder, find_face_tracks(video, source, 25.0, LibraryDetector(source.detector)))
    return source, [Entry(video.name, str(video), False)], folder


@pytest.mark.slow
def test_real_faces_are_tracked_as_in_the_list(
    real_tracks: tuple[VideosSource, list[Entry], Path],
) -> None:
    from safa.config.preprocess import MetadataSource

    source, videos, folder = real_tracks
    (job,) = list_tracked_clips(source, videos, folder).jobs
    listed = [
        expected
        for expected in list_jobs(
            MetadataSource(kind="metadata", csv=REAL / "metadata.csv", videos=REAL / "raw")
        ).jobs
        if expected.video_id == "lp_d18"
    ]
    assert job.box
    found = Face(*job.box, 1.0)
    for expected in listed:
        assert expected.box
        assert iou(found, Face(*expected.box, 1.0)) > 0.5
    assert job.fps
    assert job.end is not None
    # In time, too: from the first listed frame to the last, at their own rates.
    assert job.start / job.fps == pytest.approx(listed[0].start / 30, abs=0.1)
    assert job.end / job.fps == pytest.approx(max(e.end or 0 for e in listed) / 30, abs=0.1)
    assert job.person_id == job.video_id == "lp_d18"


@pytest.mark.slow
def test_a_damaged_file_of_tracks_is_an_error(
    real_tracks: tuple[VideosSource, list[Entry], Path], tmp_path: Path
) -> None:
    _, (video,), folder = real_tracks
    whole = tracks_file(folder, video.name)
    assert Box(*read_tracks(whole).clips[0].box or ()).width > 256
    crop_face = tmp_path / whole.name
    crop_face.write_text(whole.read_text()[:50])
    with pytest.raises(UserError, match="not a file of face tracks"):
        read_tracks(crop_face)
