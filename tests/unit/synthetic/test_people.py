"""Synthetic people and their pictures: seeded, varied, and where the landmarks say they are."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from safa.config.synthetic import SyntheticConfig
from safa.synthetic.backdrop import paint_backdrop
from safa.synthetic.painted_mesh import grid_faces
from safa.synthetic.people import Light, sample_light, sample_person
from safa.synthetic.render import render, shade
from safa.synthetic.scene import Scene, build_scene, head_model
from safa.synthetic.truth import Canvas, clip_spans, face_box, landmarks_in_frame

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = SyntheticConfig(num_people=3, num_held_out=1, frames_per_video=40, frame_size=(160, 128))
CANVAS = Canvas.around(CONFIG.frame_size)


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _at(scene: Scene, frames: slice) -> Scene:
    """The scene with some of its frames."""
    return dataclasses.replace(scene, track=scene.track.at(frames))


def _on(scene: Scene, grey: float) -> np.ndarray:
    """The frames as (T, H, W, 3) float before a plain wall."""
    plain = np.full_like(scene.backdrop, grey)
    return np.stack(list(render(dataclasses.replace(scene, backdrop=plain), CANVAS))).astype(float) / 255


@pytest.fixture(scope="module", params=[0, 1])
def scene(request: pytest.FixtureRequest) -> Scene:
    return _at(build_scene(CONFIG, request.param, 0, held_out=False), slice(None, None, 8))


@pytest.fixture(scope="module")
def silhouette(scene: Scene) -> np.ndarray:
    """(T, H, W) bool: pixels that don't let the wall through."""
    return np.abs(_on(scene, 0.0) - _on(scene, 1.0)).max(axis=-1) < 0.95


def test_the_same_seed_gives_the_same_person_and_another_gives_another() -> None:
    first, again, other = (sample_person(_rng(seed), (0.45, 0.6), False) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.shape, again.shape)
    np.testing.assert_array_equal(first.complexion.skin, again.complexion.skin)
    assert first.hair.top == again.hair.top
    assert np.abs(first.shape - other.shape).mean() > 0.3


def test_people_vary_and_their_colours_are_colours() -> None:
    people = [sample_person(_rng(seed), (0.45, 0.6), False) for seed in range(200)]
    for person in people:
        for colour in (
            person.complexion.skin,
            person.complexion.lips,
            person.complexion.iris,
            person.hair.colour,
        ):
            assert colour.shape == (3,)
            assert colour.min() >= 0
            assert colour.max() <= 1
    assert np.ptp([p.complexion.skin.mean() for p in people]) > 0.35
    assert 0.1 < np.mean([p.complexion.beard > 0 for p in people]) < 0.6
    assert 0.2 < np.mean([p.hair.length > 0 for p in people]) < 0.7
    assert any(p.hair.top == 0 for p in people)


def test_held_out_people_are_the_liveliest() -> None:
    assert sample_person(_rng(0), (0.45, 0.6), held_out=True).liveliness == 1
    assert all(sample_person(_rng(s), (0.45, 0.6), held_out=False).liveliness <= 1 for s in range(20))


def test_the_same_settings_draw_the_same_frames() -> None:
    first, second = (_at(build_scene(CONFIG, 1, 1, held_out=False), slice(0, 3)) for _ in range(2))
    for a, b in zip(render(first, CANVAS), render(second, CANVAS), strict=True):
        np.testing.assert_array_equal(a, b)


def test_two_videos_of_one_person_share_the_head_but_not_the_room() -> None:
    first, second = (build_scene(CONFIG, 0, video, held_out=False) for video in (0, 1))
    np.testing.assert_array_equal(first.track.shape, second.track.shape)
    np.testing.assert_array_equal(first.colours, second.colours)
    assert np.abs(first.backdrop - second.backdrop).mean() > 0.01
    assert np.abs(first.track.rotation - second.track.rotation).mean() > 0.01


def test_landmarks_lie_on_the_person(scene: Scene, silhouette: np.ndarray) -> None:
    points = landmarks_in_frame(scene.track, CANVAS, head_model())
    height, width = CONFIG.frame_size
    for frame, mask in zip(points, silhouette, strict=True):
        x, y = np.floor(frame).astype(int).T
        assert x.min() >= 0
        assert y.min() >= 0
        assert x.max() < width
        assert y.max() < height
        inner = mask[y[17:], x[17:]]
        assert inner.all()
        assert mask[y[:17], x[:17]].mean() > 0.6  # the contour runs along the edge of the face


def test_the_person_has_no_holes(silhouette: np.ndarray) -> None:
    from scipy.ndimage import binary_fill_holes

    for mask in silhouette:
        holes = binary_fill_holes(mask) & ~mask
        assert holes.sum() < 0.002 * mask.sum()


def test_eyes_have_a_dark_middle_and_lie_between_their_landmarks(scene: Scene) -> None:
    eyes_open = int(np.argmin(_closure(landmarks_in_frame(scene.track, CANVAS, head_model()))))
    one = _at(scene, slice(eyes_open, eyes_open + 1))
    bright = Light(np.array([0.0, 0.0, 1.0]), np.zeros(3), np.ones(3), np.ones(3))  # no shadows
    picture = _on(dataclasses.replace(one, light=bright), 0.5)[0].mean(axis=-1)
    points = landmarks_in_frame(one.track, CANVAS, head_model())[0]
    for eye in (points[36:42], points[42:48]):
        (x0, y0), (x1, y1) = np.floor(eye.min(axis=0)).astype(int), np.ceil(eye.max(axis=0)).astype(int)
        patch = picture[y0 : y1 + 1, x0 : x1 + 1]
        assert patch.min() < 0.6 * patch.max()


def _closure(points: np.ndarray) -> np.ndarray:
    """How closed the eyes are, (T,): minus the lids' distance over the eye's width."""
    lids = np.linalg.norm(points[:, [37, 38, 43, 44]] - points[:, [41, 40, 47, 46]], axis=-1).mean(axis=1)
    width = np.linalg.norm(points[:, [36, 42]] - points[:, [39, 45]], axis=-1).mean(axis=1)
    return -lids / width


def test_mouths_open_and_eyes_blink_in_every_video() -> None:
    for person in range(CONFIG.num_people):
        track = build_scene(CONFIG, person, 0, held_out=False).track
        points = landmarks_in_frame(track, CANVAS, head_model())
        gap = np.linalg.norm(points[:, 62] - points[:, 66], axis=-1)
        face = points[:, 8, 1] - points[:, 27, 1]
        assert (gap / face).max() > 0.06 + (gap / face).min()
        openness = -_closure(points)
        assert openness.min() < 0.45 * np.median(openness)


def test_the_backdrop_stands_still(scene: Scene, silhouette: np.ndarray) -> None:
    from scipy.ndimage import binary_dilation

    frames = np.stack(list(render(scene, CANVAS))).astype(float)
    never = ~binary_dilation(silhouette.any(axis=0), iterations=3)
    assert never.mean() > 0.05
    assert np.ptp(frames[:, never], axis=0).max() == 0


def test_the_picture_follows_the_light() -> None:
    facing = torch.tensor([[[0.0, 0.0, -1.0], [0.0, 0.0, 1.0]]])
    light = Light(np.array([0.0, 0.0, 1.0]), np.ones(3), np.full(3, 0.2), np.full(3, 0.2))
    lit, dark = shade(facing, torch.full((2, 3), 0.5), torch.zeros(2, 1), light)[0]
    torch.testing.assert_close(lit, torch.full((3,), 0.5 * 1.2))
    torch.testing.assert_close(dark, torch.full((3,), 0.5 * 0.2))


@pytest.mark.parametrize("seed", range(10))
def test_light_comes_from_the_front_and_backdrops_are_pictures(seed: int) -> None:
    light = sample_light(_rng(seed))
    assert np.linalg.norm(light.direction) == pytest.approx(1)
    assert light.direction[2] > 0
    picture = paint_backdrop(_rng(seed), (64, 48))
    assert picture.shape == (64, 48, 3)
    assert picture.dtype == np.float32
    assert picture.min() >= 0
    assert picture.max() <= 1


@pytest.mark.parametrize(("closed", "count"), [(False, 12), (True, 16)])
def test_a_lattice_faces_outwards(closed: bool, count: int) -> None:
    faces = grid_faces(3, 4, closed)
    assert len(faces) == count
    row, column = np.divmod(faces, 4)
    if not closed:
        x, y = column.astype(float), -row.astype(float)
        area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (y[:, 1] - y[:, 0]) * (x[:, 2] - x[:, 0])
        assert (area > 0).all()


@pytest.mark.parametrize("two", [False, True])
def test_clips_lie_inside_the_video_and_apart(two: bool) -> None:
    for seed in range(20):
        spans = clip_spans(_rng(seed), 50, two)
        assert len(spans) == 1 + two
        assert spans[0][0] > 0
        assert spans[-1][1] < 50
        assert all(start < end for start, end in spans)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def test_the_box_is_square_where_the_frame_allows_and_holds_the_track() -> None:
    track = np.array([[[40.0, 60.0], [80.0, 110.0]], [[50.0, 55.0], [90.0, 105.0]]], dtype=np.float32)
    box = face_box(track, (200, 160))
    assert abs(box.width - box.height) <= 1
    assert box.left <= 40
    assert box.top <= 55
    assert box.right >= 90
    assert box.bottom >= 110
    narrow = face_box(track, (120, 100))
    assert narrow.clipped(100, 120) == narrow
