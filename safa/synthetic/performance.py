"""From gestures and poses to the codes of the head model: exactly what the 3DMM stage is to find again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from safa.config.synthetic import SyntheticConfig
from safa.head.assets import NUM_EXPRESSION
from safa.head.builtin import EXPRESSIONS
from safa.head.model import HeadModel
from safa.synthetic.motion import Gestures, HeadPose, Restlessness, gestures
from safa.synthetic.people import Person
from safa.synthetic.truth import Canvas, Spans, Track, landmarks_in_frame, travel

_FOREHEAD = 0.45  # hairline above the brows, in brow-to-chin heights
_MEASURED = 3  # the landmarks' way and room are measured on every third frame
_CORRECTIONS = 3  # travel grows a little less than in proportion to the amplitude
_AMPLITUDES = (0.2, 2.0)
_COURSES = 8  # tried at most: in a short clip a course may come to little
_ENOUGH = 0.97  # of the travel that is asked for
# In frame heights:
_MARGIN = 0.05  # always between the landmarks and the border
_OFF_CENTRE = 0.10  # the face's place varies this much around the middle
_LOWERED = 0.05  # of the landmarks' middle, because the hair needs room


@dataclass(frozen=True)
class FaceFrame:
    """Where the face is in a person's unposed head: centre (2,) and chin-to-hairline height, metres."""

    centre: NDArray[np.float64]
    height: float

    @classmethod
    def of(cls, landmarks: NDArray[np.float64]) -> FaceFrame:
        """From the 68 landmarks (68, 3) of the head at rest, y up."""
        brows, chin = landmarks[17:27, 1].mean(), landmarks[8, 1]
        height = (1 + _FOREHEAD) * (brows - chin)
        return cls(np.array([landmarks[27:36, 0].mean(), chin + height / 2]), float(height))


# What a full gesture does, in coefficients of the built-in head by name.
_EXPRESSIONS: Mapping[str, Mapping[str, float]] = {
    "jaw": {"mouth_open": 0.25},
    "smile": {"smile_left": 1.0, "smile_right": 1.0, "squint_left": 0.35, "squint_right": 0.35},
    "pucker": {"pucker": 1.0},
    "spread": {"wide": 1.0, "lower_lip_drop": 0.5, "upper_lip_raise": 0.4},
    "brow_raise": {"brow_raise_left": 1.0, "brow_raise_right": 1.0, "brow_inner_raise": 0.4},
    "brow_frown": {"brow_lower": 1.0},
    "blink": {"blink_left": 1.0, "blink_right": 1.0},
}


def expression_codes(done: Gestures) -> NDArray[np.float32]:
    """Coefficients (T, 50) of the built-in head for what the face does."""
    codes = np.zeros((len(done.jaw), NUM_EXPRESSION))
    for gesture, parts in _EXPRESSIONS.items():
        for name, weight in parts.items():
            # A blink overrides a squint, since by itself it brings the lids exactly together.
            free = 1 - done.blink if name.startswith("squint") else 1
            codes[:, EXPRESSIONS.index(name)] += weight * getattr(done, gesture) * free
    return codes.astype(np.float32)


def rotation_codes(pose: HeadPose) -> NDArray[np.float32]:
    """Axis-angle (T, 3) of roll, then pitch, then yaw."""
    angles = np.stack([pose.yaw, pose.pitch, pose.roll], axis=1)
    vectors: NDArray[np.float32] = Rotation.from_euler("YXZ", angles).as_rotvec().astype(np.float32)
    return vectors


@dataclass(frozen=True)
class _Play:
    """Everything about a video's motion but its size."""

    person: Person
    face: FaceFrame
    course: Restlessness
    gestures: Gestures
    config: SyntheticConfig

    def track(self, amplitude: float) -> Track:
        """The face in the middle of the frame, with the head's motion of this size."""
        pose = self.course.scaled(self.config.motion, amplitude)
        canvas = Canvas.around(self.config.frame_size)
        scale = 2 * self.person.face_share * self.config.frame_size[0] / (canvas.side * self.face.height)
        sway = np.stack([pose.sway_x, -pose.sway_y], axis=1) * self.face.height
        jaw = np.zeros((len(sway), 3), dtype=np.float32)
        # About x, the chin goes down.
        jaw[:, 0] = np.radians(self.config.motion.jaw_deg) * self.gestures.jaw
        return Track(
            shape=self.person.shape,
            expression=expression_codes(self.gestures),
            rotation=rotation_codes(pose),
            jaw=jaw,
            scale=(scale * pose.zoom[:, None]).astype(np.float32),
            translation=(sway - self.face.centre).astype(np.float32),
        )


def perform(
    rng: Generator,
    person: Person,
    face: FaceFrame,
    spans: Spans,
    config: SyntheticConfig,
    model: HeadModel,
) -> Track:
    """One video's worth of talking, blinking, turning and leaning; ``spans`` are its clips."""
    course_rng, gesture_rng, place_rng = rng.spawn(3)
    frames, fps = config.frames_per_video, config.fps
    done = gestures(gesture_rng, frames, fps, person.liveliness)
    tries: list[_Sized] = []
    for stream in course_rng.spawn(_COURSES):
        course = Restlessness.draw(stream, frames, fps)
        tries.append(_sized(_Play(person, face, course, done, config), spans, model))
        if tries[-1].reached >= _ENOUGH:
            break
    best = max(tries, key=lambda sized: sized.reached)
    return place(place_rng, best.track, model, config.frame_size)


@dataclass(frozen=True)
class _Sized:
    """A motion at its best size; ``reached`` is how far it travels over how far it should."""

    track: Track
    reached: float


def _sized(play: _Play, spans: Spans, model: HeadModel) -> _Sized:
    """The size of the motion that makes the landmarks travel as far as the settings ask, if they can."""
    canvas = Canvas.around(play.config.frame_size)
    goal = play.person.liveliness * play.config.motion.travel

    def reached(track: Track) -> float:
        shares = [
            travel(landmarks_in_frame(track.at(slice(start, end, _MEASURED)), canvas, model))
            for start, end in spans
        ]
        return fmean(shares) / goal

    amplitude = play.person.liveliness
    track = play.track(amplitude)
    share = reached(track)
    for _ in range(_CORRECTIONS):
        amplitude = min(max(amplitude / max(share, 1e-6), _AMPLITUDES[0]), _AMPLITUDES[1])
        track = play.track(amplitude)
        share = reached(track)
    return _Sized(track, share)


def place(rng: Generator, track: Track, model: HeadModel, frame_size: tuple[int, int]) -> Track:
    """Move the whole person to a random place where the face stays inside the frame."""
    canvas = Canvas.around(frame_size)
    points = landmarks_in_frame(track.at(slice(None, None, _MEASURED)), canvas, model).reshape(-1, 2)
    frame = np.array([frame_size[1], frame_size[0]])
    low, high = points.min(axis=0), points.max(axis=0)
    room = np.maximum((frame - (high - low)) / 2 - _MARGIN * frame_size[0], 0)
    off = frame * 0.5 + np.array([0.0, _LOWERED * frame_size[0]]) - (low + high) / 2
    off = off + rng.uniform(-1, 1, 2) * np.minimum(_OFF_CENTRE * frame_size[0], room)
    # The camera adds the translation before it scales, and its y points up.
    shift = off / (canvas.side / 2) * np.array([1, -1]) / track.scale
    return dataclasses.replace(track, translation=(track.translation + shift).astype(np.float32))
