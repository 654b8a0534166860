"""Following one person's face from frame to frame, through frames without it and past other people.

Near the place where the face was, a search costs little and is sure. Where that shows nothing, and where a
scene was cut, the whole frame is searched, and only a face that an identity network takes for the same person
counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from safa.data.detectors import (
    CloserDetector,
    Face,
    IdentityNetwork,
    LandmarkNetwork,
    all_faces,
    iou,
    unlike,
)
from safa.data.detectors.scene_cuts import SceneCuts
from safa.data.schema import NUM_LANDMARKS

Frame = NDArray[np.uint8]
Points = NDArray[np.float32]
# A person's number among the faces of a frame, from 1, the largest first; or a place (x, y) in px.
FaceChoice = int | tuple[float, float]

SAME_PLACE = 0.2  # least overlap (IoU) with the face of the frame before
# Distances of dlib's embeddings. In one video they are 0.2 to 0.4, between people 0.5 and more.
SAME_PERSON = 0.5  # a face that is found elsewhere, or after a while
OTHER_PERSON = 0.6  # a face that was followed, or lost in that place, turns out to be somebody else's
RECHECK = 15  # frames after which a face that is followed is compared again
JUMP = 0.5  # a face that overlaps its last place by less is compared at once
LOST_FOR = 50  # frames for which the place counts in which a face was lost, as in a turn to the side
STRANGERS_FOR = 5  # frames for which other people are known by their places: comparing takes 75 ms each
KEPT = 8  # embeddings of the person that are compared with, the first one among them
NO_POINTS: Points = np.full((NUM_LANDMARKS, 2), np.nan, np.float32)


@dataclass(frozen=True)
class SeenFace:
    """A face that was found in a frame, with its landmarks ``points`` (68, 2) px."""

    face: Face
    points: Points


def choose_face(faces: Sequence[Face], choice: FaceChoice | None) -> Face | None:
    """Return the face that is meant, the largest without a choice; None if there are too few."""
    ordered = sorted(faces, key=lambda face: -face.area)
    if isinstance(choice, tuple):
        x, y = choice
        return min(ordered, key=lambda face: _distance(face, x, y), default=None)
    number = 1 if choice is None else choice
    return ordered[number - 1] if len(ordered) >= number else None


class PersonTracker:
    """Follows the chosen face of the first frame that shows it.

    Args:
        choice: which face; None is the largest.
    """

    def __init__(
        self,
        detector: CloserDetector,
        landmarks: LandmarkNetwork,
        identity: IdentityNetwork,
        choice: FaceChoice | None = None,
    ) -> None:
        self._detector, self._landmarks, self._identity = detector, landmarks, identity
        self._choice = choice
        self._last: Face | None = None
        self._person: list[NDArray[np.float32]] = []  # embeddings (D,)
        self._unchecked = 0  # frames since the face was compared with the person
        self._place: Face | None = None  # where the person was seen last in this scene
        self._unseen = 0  # frames since then
        self._strangers: list[Face] = []  # in the frame before
        self._strangers_for = 0  # frames since they were compared with the person
        self._cuts = SceneCuts()

    def follow(self, frames: Iterable[Frame]) -> Iterator[SeenFace | None]:
        """Yield the person's face in each frame (H, W, 3) in order; None where it is not seen."""
        for frame in frames:
            yield self.next(frame)

    def next(self, frame: Frame) -> SeenFace | None:
        """Find the person's face in the next frame (H, W, 3)."""
        if self._cuts.is_cut(frame):
            self._last, self._place, self._strangers = None, None, []
        seen = self._nearby(frame) if self._last is not None else None
        if seen is None:
            seen = self._anywhere(frame) if self._person else self._first(frame)
        self._last = None if seen is None else seen.face
        self._place, self._unseen = self._last or self._place, 0 if seen else self._unseen + 1
        return seen

    def _first(self, frame: Frame) -> SeenFace | None:
        """The chosen face of a frame: without a choice the largest."""
        if self._choice is None:
            faces = self._detector.detect([frame])[0]
        else:  # it may be one of the small ones
            faces = tuple(all_faces(self._detector, frame))
        face = choose_face(faces, self._choice)
        if face is None:
            return None
        seen = self._seen(frame, face)
        self._person.append(self._embedding(frame, seen))
        self._unchecked = 0
        return seen

    def _nearby(self, frame: Frame) -> SeenFace | None:
        assert self._last is not None
        last = self._last
        overlaps = [(iou(face, last), face) for face in self._detector.near(frame, last)]
        overlaps = [each for each in overlaps if each[0] >= SAME_PLACE]
        if not overlaps:
            return None
        overlap, face = max(overlaps, key=lambda each: each[0])
        seen = self._seen(frame, face)
        self._unchecked += 1
        if self._unchecked < RECHECK and len(overlaps) == 1 and overlap >= JUMP:
            return seen
        self._unchecked = 0
        embedding = self._embedding(frame, seen)
        distance = self._from_person(embedding)
        if distance > OTHER_PERSON:
            return None
        if distance < SAME_PERSON and len(self._person) < KEPT:
            self._person.append(embedding)
        return seen

    def _anywhere(self, frame: Frame) -> SeenFace | None:
        """The face in the frame that is the person's, if there is one."""
        self._unchecked = 0
        self._strangers_for += 1
        if self._strangers_for >= STRANGERS_FOR:
            self._strangers, self._strangers_for = [], 0
        met: list[Face] = []
        for faces in self._detector.searches(frame):
            new = unlike(faces, met)
            met += new
            candidates = [self._seen(frame, face) for face in unlike(new, self._strangers)]
            distances = [self._from_person(self._embedding(frame, each)) for each in candidates]
            alike = [
                (distance, number)
                for number, distance in enumerate(distances)
                if distance < (OTHER_PERSON if self._lost_at(candidates[number].face) else SAME_PERSON)
            ]
            if alike:
                self._strangers = []
                return candidates[min(alike)[1]]
        self._strangers = [face for face in met if not self._lost_at(face)]
        return None

    def _lost_at(self, face: Face) -> bool:
        """Whether the person was seen in this place a moment ago."""
        place = self._place
        return place is not None and self._unseen < LOST_FOR and iou(face, place) >= SAME_PLACE

    def _seen(self, frame: Frame, face: Face) -> SeenFace:
        return SeenFace(face, self._landmarks.landmarks([frame], [face])[0])

    def _embedding(self, frame: Frame, seen: SeenFace) -> NDArray[np.float32]:
        embedding: NDArray[np.float32] = self._identity.embeddings([frame], seen.points[None])[0]
        return embedding

    def _from_person(self, embedding: NDArray[np.float32]) -> float:
        return min(float(np.linalg.norm(embedding - known)) for known in self._person)


def _distance(face: Face, x: float, y: float) -> float:
    """How far a place lies outside of a face's box, and a little for how far from its middle."""
    outside = np.hypot(max(face.left - x, x - face.right, 0), max(face.top - y, y - face.bottom, 0))
    middle = np.hypot((face.left + face.right) / 2 - x, (face.top + face.bottom) / 2 - y)
    return float(outside + 1e-3 * middle)
