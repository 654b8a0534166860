"""From gestures and poses to the codes of the head model: exactly what the 3DMM stage is to find again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from safa.config.synthetic import SyntheticConfig
from safa.data.synthetic.clips import mean_way
from safa.data.synthetic.motion import Gestures, HeadPose, Restlessness, gestures
from safa.data.synthetic.people import Person
from safa.data.synthetic.truth import Canvas, Track, landmarks_in_frame
from safa.head.assets import NUM_EXPRESSION
from safa.head.builtin import EXPRESSIONS
from safa.head.model import HeadModel

_FOREHEAD = 0.45  # hairline above the brows, in brow-to-chin heights
_MEASURED = 3  # the landmarks' way and room are measured on every third frame
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


def perform(
    rng: Generator,
    person: Person,
    face: FaceFrame,
    config: SyntheticConfig,
    model: HeadModel,
) -> Track:
    """One video's worth of talking, blinking, turning and leaning."""
    course_rng, gesture_rng, place_rng = rng.spawn(3)
    frames, fps = config.frames_per_video, config.fps
    course = Restlessness.draw(course_rng, frames, fps)
    done = gestures(gesture_rng, frames, fps, person.liveliness)
    canvas = Canvas.around(config.frame_size)
    scale = 2 * person.face_share * config.frame_size[0] / (canvas.side * face.height)
    jaw = np.zeros((frames, 3), dtype=np.float32)
    jaw[:, 0] = np.radians(config.motion.jaw_deg) * done.jaw  # about x: the chin goes down

    def posed(amplitude: float) -> Track:
        pose = course.scaled(config.motion, amplitude)
        sway = np.stack([pose.sway_x, -pose.sway_y], axis=1) * face.height
        return Track(
            shape=person.shape,
            expression=expression_codes(done),
            rotation=rotation_codes(pose),
            jaw=jaw,
            scale=(scale * pose.zoom[:, None]).astype(np.float32),
            translation=(sway - face.centre).astype(np.float32),
        )

    # The way of the landmarks grows nearly in proportion to the amplitude, so two corrections are enough.
    amplitude = person.liveliness
    goal = person.liveliness * config.motion.travel * person.face_share * config.frame_size[0]  # px
    for _ in range(2):
        points = landmarks_in_frame(posed(amplitude).every(_MEASURED), canvas, model)
        amplitude *= goal / max(float(mean_way(points)), 1e-6)
        amplitude = min(max(amplitude, 0.2), 2.5)
    return place(place_rng, posed(amplitude), model, config.frame_size)


def place(rng: Generator, track: Track, model: HeadModel, frame_size: tuple[int, int]) -> Track:
    """Move the whole person to a random place where the face stays inside the frame."""
    canvas = Canvas.around(frame_size)
    points = landmarks_in_frame(track.every(_MEASURED), canvas, model).reshape(-1, 2)
    frame = np.array([frame_size[1], frame_size[0]])
    low, high = points.min(axis=0), points.max(axis=0)
    room = np.maximum((frame - (high - low)) / 2 - _MARGIN * frame_size[0], 0)
    off = frame * 0.5 + np.array([0.0, _LOWERED * frame_size[0]]) - (low + high) / 2
    off = off + rng.uniform(-1, 1, 2) * np.minimum(_OFF_CENTRE * frame_size[0], room)
    # The camera adds the translation before it scales, and its y points up.
    shift = off / (canvas.side / 2) * np.array([1, -1]) / track.scale
    return dataclasses.replace(track, translation=(track.translation + shift).astype(np.float32))
