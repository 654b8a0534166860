"""Face tracks: who is whom from frame to frame, and which tracks become clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safa.config.preprocess import FaceTrackConfig, VideosSource
from safa.data.detectors import Face, chosen, iou
from safa.data.face_tracks import FaceTrack, clip_box, find_face_tracks, track_faces
from safa.data.video import VideoReader, write_video
from safa.errors import ClipError, FailureCode

CONFIG = FaceTrackConfig(min_frames=4, max_frames=10, min_size=20, gap=2)
FRAME = (200, 300)


def face(x: float, y: float = 50, size: float = 40, score: float = 0.9) -> Face:
    return Face(x, y, x + size, y + size, score)


def spans(tracks: list[FaceTrack]) -> list[tuple[int, int, float]]:
    return sorted((track.start, track.end, track.first.left) for track in tracks)


boxes = st.builds(
    lambda x, y, w, h: Face(x, y, x + w, y + h, 0.5),
    *(st.floats(-50, 50), st.floats(-50, 50), st.floats(0.1, 60), st.floats(0.1, 60)),
)


@given(boxes, boxes)
def test_iou_is_symmetric_bounded_and_one_of_itself(a: Face, b: Face) -> None:
    assert iou(a, b) == pytest.approx(iou(b, a))
    assert 0 <= iou(a, b) <= 1 + 1e-9
    assert iou(a, a) == pytest.approx(1)


def test_iou_of_known_boxes() -> None:
    assert iou(Face(0, 0, 2, 2, 1), Face(1, 0, 3, 2, 1)) == pytest.approx(1 / 3)
    assert iou(Face(0, 0, 1, 1, 1), Face(1, 0, 2, 1, 1)) == 0


def test_the_face_that_is_meant() -> None:
    small, large = face(0, size=10), face(100, size=50)
    assert chosen([small, large], "largest", (0, 50)) is large
    assert chosen([small, large], "nearest", (0, 50)) is small
    assert chosen([], "nearest", (0, 0)) is None


def test_two_people_are_two_tracks_whatever_the_order_of_detections() -> None:
    frames = [[face(10 + t), face(150 - t)] if t % 2 else [face(150 - t), face(10 + t)] for t in range(8)]
    tracks = list(track_faces(frames, CONFIG))
    assert spans(tracks) == [(0, 8, 10), (0, 8, 150)]
    left = min(tracks, key=lambda track: track.first.left)
    assert (left.union.left, left.union.right, left.n_faces) == (10, 57, 8)


def test_a_face_that_drifts_off_its_first_box_starts_a_new_track() -> None:
    # 40 px wide: at a shift of 24 the overlap with the first box is 16/64 = 0.25, at 25 it is below.
    tracks = list(
        track_faces([[face(float(t))] for t in range(30)], FaceTrackConfig(min_frames=1, max_frames=99))
    )
    assert spans(tracks) == [(0, 25, 0), (25, 30, 25)]


def test_short_gaps_are_survived_and_long_ones_are_not() -> None:
    seen = [[face(10)]] * 4
    assert spans(list(track_faces([*seen, [], [], *seen], CONFIG))) == [(0, 10, 10)]
    assert spans(list(track_faces([*seen, [], [], [], *seen], CONFIG))) == [(0, 4, 10), (7, 11, 10)]


def test_long_tracks_are_split_without_losing_a_frame() -> None:
    assert spans(list(track_faces([[face(10)]] * 25, CONFIG))) == [(0, 10, 10), (10, 20, 10), (20, 25, 10)]


def test_nothing_to_track() -> None:
    assert list(track_faces([], CONFIG)) == []
    assert list(track_faces([[], []], CONFIG)) == []


@given(st.lists(st.lists(boxes, max_size=3), max_size=25))
def test_every_face_is_in_exactly_one_track(frames: list[list[Face]]) -> None:
    tracks = list(track_faces(frames, CONFIG))
    assert sum(track.n_faces for track in tracks) == sum(map(len, frames))
    for track in tracks:
        assert track.n_faces <= track.length <= CONFIG.max_frames + CONFIG.gap
        assert 0 <= track.start < track.end <= len(frames)


def _track(still: Face, length: int = 8) -> FaceTrack:
    return FaceTrack(0, length, still, still, still, length)


def test_the_clips_box_is_a_square_with_a_margin() -> None:
    box = clip_box(_track(face(100, 60)), FRAME, CONFIG)
    assert (box.left, box.top, box.right, box.bottom) == (96, 56, 144, 104)  # 40 px and a tenth at each side
    oblong = Face(100, 60, 120, 100, 0.9)
    assert clip_box(_track(oblong), FRAME, CONFIG).width == 48


def test_the_margin_ends_at_the_frame() -> None:
    box = clip_box(_track(face(2, 60)), FRAME, CONFIG)
    assert (box.left, box.right) == (0, 46)


@pytest.mark.parametrize(
    ("track", "code"),
    [
        (_track(face(100), 3), FailureCode.TOO_SHORT),
        (_track(face(0.5)), FailureCode.BORDER),
        (_track(face(259.5)), FailureCode.BORDER),
        (_track(face(100, 159.2)), FailureCode.BORDER),
        (_track(face(100, size=10)), FailureCode.TOO_SMALL),
    ],
)
def test_tracks_that_become_no_clip(track: FaceTrack, code: FailureCode) -> None:
    with pytest.raises(ClipError) as caught:
        clip_box(track, FRAME, CONFIG)
    assert caught.value.code is code


def test_tracks_at_the_border_are_kept_on_demand() -> None:
    kept = CONFIG.model_copy(update={"drop_border": False})
    assert clip_box(_track(face(0.5)), FRAME, kept).left == 0
    assert clip_box(replace(_track(face(0.5)), end=9), FRAME, kept).width > 40


def test_a_scene_cut_ends_every_track() -> None:
    face = Face(10, 10, 60, 60, 0.9)
    found = list(track_faces([(face,)] * 20, FaceTrackConfig(min_frames=1), cuts={8}))
    assert [(track.start, track.end) for track in found] == [(0, 8), (8, 20)]


def test_faces_that_stay_are_embedded_less_often_until_the_next_scene(tmp_path: Path) -> None:
    """Every 21st frame at first (64 frames must have three), then every 63rd; a cut starts anew."""
    shades = (np.full((64, 96, 3), 20 if n < 300 else 220, np.uint8) for n in range(400))
    write_video(tmp_path / "v.mp4", shades, 25.0)
    face, newcomer = Face(10, 10, 40, 40, 0.9), Face(60, 10, 90, 40, 0.9)
    asked: list[tuple[bool, list[float]]] = []

    class Sees:
        number = 0

        def detect(self, frames: Sequence[np.ndarray]) -> list[tuple[Face, ...]]:
            first, self.number = self.number, self.number + len(frames)
            return [(face, newcomer) if number >= 150 else (face,) for number in range(first, self.number)]

    def embed(frame: np.ndarray, faces: Sequence[Face]) -> np.ndarray:
        asked.append((int(frame[0, 0, 0]) > 100, [each.left for each in faces]))
        return np.ones((len(faces), 2), np.float32)

    source = VideosSource(kind="videos", folder=tmp_path, face_tracks=FaceTrackConfig(min_size=20))
    tracks = find_face_tracks(tmp_path / "v.mp4", source, 25.0, Sees(), embed)
    before = [lefts for late, lefts in asked if not late]
    assert before == [[10]] * 5 + [[60], [10, 60], [60], [60], [10], [60]]
    assert [lefts for late, lefts in asked if late][:3] == [[10, 60]] * 3
    assert all(segment.embedding for segment in tracks.segments if segment.box)


def test_cuts_are_counted_as_frames_are_read(tmp_path: Path) -> None:
    """A 30 fps video that cuts at 1 s and 2 s, read at 25 fps."""
    shades = (np.full((64, 96, 3), (20, 220, 60)[n // 30], np.uint8) for n in range(90))
    write_video(tmp_path / "v.mp4", shades, 30.0)
    with VideoReader(tmp_path / "v.mp4") as reader:
        begins = [frame.begins_scene for frame in reader.frames(fps=25.0, scene_cut=0.3)]
        assert len(begins) == 75
        assert [number for number, begin in enumerate(begins) if begin] == [25, 50]
        assert not any(frame.begins_scene for frame in reader.frames(fps=25.0))
