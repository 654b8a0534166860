"""One person through a video: what is looked at, compared and refused; then real faces, where they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from safa.config.synthetic import SyntheticConfig
from safa.data.detectors import Face, all_faces, dlib_faces, iou
from safa.data.detectors.dlib_faces import DlibDetector, DlibIdentity, DlibLandmarks
from safa.data.detectors.person_tracker import STRANGERS_FOR, FaceChoice, PersonTracker
from safa.data.video import read_frames
from safa.synthetic.render import render
from safa.synthetic.scene import build_scene
from safa.synthetic.truth import Canvas

REAL = Path(__file__).parents[4] / "shared" / "real"
needs_dlib = pytest.mark.skipif(bool(dlib_faces.missing()), reason=dlib_faces.missing() or "dlib is here")
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="../shared/real is not here")

Seen = tuple[float, float, float]  # a face: left edge, side in px, and who it is as a number


class Stage:
    """A detector and networks that see what the test puts on a stage of 400 x 100 px.

    Faces of less than 20 px are seen by the second search alone. Embeddings are of one number.
    """

    def __init__(self) -> None:
        self.faces: Sequence[Seen] = ()
        self.searched = self.compared = 0

    def show(self, faces: Sequence[Seen], scene: int) -> np.ndarray:
        self.faces = faces
        return np.full((100, 400, 3), scene, np.uint8)

    def _boxes(self) -> list[Face]:
        return [Face(left, 40, left + side, 40 + side, 0.9) for left, side, _ in self.faces]

    def searches(self, frame: np.ndarray) -> Iterator[tuple[Face, ...]]:
        self.searched += 1
        yield tuple(face for face in self._boxes() if face.right - face.left >= 20)
        yield tuple(self._boxes())

    def detect(self, frames: Sequence[np.ndarray]) -> list[tuple[Face, ...]]:
        return [next((faces for faces in self.searches(frames[0]) if faces), ())]

    def near(self, frame: np.ndarray, face: Face) -> tuple[Face, ...]:
        return tuple(each for each in self._boxes() if iou(each, face) > 0)

    def landmarks(self, frames: Sequence[np.ndarray], faces: Sequence[Face]) -> np.ndarray:
        return np.stack([np.full((68, 2), (face.left, face.right - face.left), np.float32) for face in faces])

    def embeddings(self, frames: Sequence[np.ndarray], points: np.ndarray) -> np.ndarray:
        self.compared += len(points)
        who = {left: person for left, _, person in self.faces}
        return np.array([[who[float(face[0, 0])]] for face in points], np.float32)


def follow(
    shown: Sequence[tuple[Sequence[Seen], int]], choice: FaceChoice | None = None
) -> tuple[list[float | None], Stage]:
    """Left edges of the person, or None, of frames: what they show, and the level of their pixels."""
    stage = Stage()
    tracker = PersonTracker(stage, stage, stage, choice)
    seen = [tracker.next(stage.show(*frame)) for frame in shown]
    return [None if each is None else float(each.points[0, 0]) for each in seen], stage


def test_another_face_in_the_same_place_after_a_cut_is_not_followed() -> None:
    hero, other = (100.0, 40.0, 0.0), (101.0, 40.0, 1.0)
    scenes = [([hero], 90)] * 2 + [([other], 160)] * 3 + [([hero], 90)] * 2
    assert follow(scenes)[0] == [100, 100, None, None, None, 100, 100]


def test_other_people_are_not_compared_in_every_frame() -> None:
    crowd = [(100.0 + 50 * n, 40.0, 5.0 + n) for n in range(6)]
    hero = (20.0, 40.0, 0.0)
    seen, stage = follow([([hero], 90)] + [(crowd, 90)] * 2 * STRANGERS_FOR + [([hero, *crowd], 90)])
    assert seen == [20] + [None] * 2 * STRANGERS_FOR + [20]
    assert stage.compared <= 2 + 3 * len(crowd)


def test_a_face_that_comes_back_where_it_was_may_have_changed_a_little_more() -> None:
    """As after a turn to the side; elsewhere, and in another scene, it may not."""
    hero = (20.0, 40.0, 0.0)
    for face, level, found in (((25.0, 40.0, 0.55), 90, True), ((25.0, 40.0, 0.65), 90, False)):
        assert follow([([hero], 90), ([], 90), ([face], level)])[0] == [20, None, 25 if found else None]
    assert follow([([hero], 90), ([], 90), ([(200.0, 40.0, 0.55)], 90)])[0][2] is None
    assert follow([([hero], 90), ([], 90), ([(25.0, 40.0, 0.55)], 160)])[0][2] is None


def test_a_face_that_jumps_is_compared_at_once() -> None:
    hero, stranger = (20.0, 40.0, 0.0), (40.0, 40.0, 1.0)  # overlap by a third
    assert follow([([hero], 90)] * 2 + [([stranger], 90)])[0] == [20, 20, None]
    assert follow([([hero], 90)] * 2 + [([(24.0, 40.0, 1.0)], 90)])[0] == [20, 20, 24]  # until the next look


def test_small_faces_can_be_chosen_and_are_found_again() -> None:
    large, small = (20.0, 40.0, 1.0), (200.0, 12.0, 0.0)
    assert follow([([large, small], 90)])[0] == [20]
    for choice in (2, (205.0, 45.0)):
        seen = follow([([large, small], 90), ([large], 90), ([large, (300.0, 12.0, 0.1)], 90)], choice)[0]
        assert seen == [200, None, 300]
    stage = Stage()
    frame = stage.show([large, small], 90)
    assert [face.left for face in all_faces(stage, frame)] == [20, 200]


# ---- dlib --------------------------------------------------------------------------------------------------


def places(frames: Sequence[np.ndarray], choice: FaceChoice | None = None) -> list[int | None]:
    """Where dlib's tracker sees the person: px from the left, or None."""
    tracker = PersonTracker(DlibDetector(), DlibLandmarks(), DlibIdentity(), choice)
    return [None if seen is None else int(seen.points[:, 0].mean()) for seen in tracker.follow(frames)]


def clip(name: str, count: int) -> list[np.ndarray]:
    return list(islice(read_frames(REAL / "clips256" / f"{name}.mp4"), 0, 4 * count, 4))


@needs_dlib
def test_a_head_that_turns_away_is_lost_and_found_again() -> None:
    config = SyntheticConfig(
        seed=4,
        num_people=3,
        num_held_out=1,
        videos_per_person=1,
        frames_per_video=10,
        frame_size=(128, 128),
        two_clip_share=0.0,
        face_share=(0.55, 0.6),
    )
    scene = build_scene(config, 1, 0, held_out=False)
    turned = np.radians([0, 20, 40, 70, 90, 90, 70, 40, 20, 0])
    rotation = Rotation.from_euler("Y", turned[:, None]).as_rotvec().astype(np.float32)
    scene = dataclasses.replace(scene, track=dataclasses.replace(scene.track, rotation=rotation))
    seen = [place is not None for place in places(list(render(scene, Canvas.around(config.frame_size))))]
    assert seen[:3] == [True] * 3
    assert seen[-2:] == [True] * 2
    assert not any(seen[4:6])


@needs_dlib
@needs_real
def test_real_people_are_followed_through_cuts_blackness_and_hands() -> None:
    hero, other = clip("safa_02", 6), clip("safa_09", 2)
    black = [np.zeros_like(hero[0])] * 2
    covered = hero[3].copy()
    covered[40:230, 50:220] = (190, 150, 130)
    shown = [*black, *hero[:2], *other, *hero[2:4], covered, *black, *hero[4:], *black]
    wanted = [False] * 2 + [True] * 2 + [False] * 2 + [True] * 2 + [False] * 3 + [True] * 2 + [False] * 2
    assert [place is not None for place in places(shown)] == wanted


@needs_dlib
@needs_real
def test_of_two_real_people_the_chosen_one_is_followed() -> None:
    pairs = [
        np.concatenate(pair, axis=1) for pair in zip(clip("safa_02", 3), clip("safa_09", 3), strict=True)
    ]
    for choice, right in (((400.0, 100.0), True), ((100.0, 100.0), False)):
        assert [place is not None and place > 256 for place in places(pairs, choice)] == [right] * 3
    small = Image.fromarray(pairs[0][:, :256]).resize((96, 96))
    group = np.full((300, 900, 3), 128, np.uint8)
    group[:256, 500:756] = pairs[0][:, 256:]
    group[100:196, 100:196] = np.asarray(small)
    first, second = places([group], 1)[0], places([group], 2)[0]
    assert first is not None
    assert second is not None
    assert (first > 400, second > 400) == (True, False)
