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
from safa.data.synthetic.motion import Gestures, HeadPose, gestures, head_pose
from safa.data.synthetic.people import Person
from safa.data.synthetic.truth import Canvas, Track, landmarks_in_frame
from safa.head.model import HeadModel

_FOREHEAD = 0.45  # hairline above the brows, in brow-to-chin heights
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


def expression_codes(done: Gestures, named: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Blend named expressions of the head, (50,) each, by the gestures: (T, 50)."""
    weights = {
        "smile": done.smile,
        "pucker": done.pucker,
        "wide": done.spread,
        "brows_up": done.brow_raise,
        "brows_down": done.brow_frown,
        "blink": done.blink,
    }
    total = np.zeros((len(done.jaw), 50))
    for name, weight in weights.items():
        total += weight[:, None] * named[name]
    return total.astype(np.float32)


def rotation_codes(pose: HeadPose) -> NDArray[np.float32]:
    """Axis-angle (T, 3) of roll, then pitch, then yaw."""
    angles = np.stack([pose.yaw, pose.pitch, pose.roll], axis=1)
    vectors: NDArray[np.float32] = Rotation.from_euler("YXZ", angles).as_rotvec().astype(np.float32)
    return vectors


def perform(
    rng: Generator,
    person: Person,
    face: FaceFrame,
    named: Mapping[str, NDArray[np.float32]],
    config: SyntheticConfig,
) -> Track:
    """One video's worth of talking, blinking, turning and leaning."""
    pose_rng, gesture_rng = rng.spawn(2)
    frames, fps = config.frames_per_video, config.fps
    pose = head_pose(pose_rng, frames, fps, config.motion, person.liveliness)
    done = gestures(gesture_rng, frames, fps, person.liveliness)

    frame_height = config.frame_size[0]
    share = frame_height / Canvas.around(config.frame_size).side
    scale = 2 * person.face_share * share / face.height * pose.zoom
    x = pose.sway_x * face.height - face.centre[0]
    y = -pose.sway_y * face.height - face.centre[1]
    jaw = np.zeros((frames, 3), dtype=np.float32)
    jaw[:, 0] = np.radians(config.motion.jaw_deg) * done.jaw  # about x: the chin goes down
    return Track(
        shape=person.shape,
        expression=expression_codes(done, named),
        rotation=rotation_codes(pose),
        jaw=jaw,
        scale=scale[:, None].astype(np.float32),
        translation=np.stack([x, y], axis=1).astype(np.float32),
    )


def place(rng: Generator, track: Track, model: HeadModel, frame_size: tuple[int, int]) -> Track:
    """Move the whole person to a random place where the face stays inside the frame all the time."""
    canvas = Canvas.around(frame_size)
    points = landmarks_in_frame(track, canvas, model).reshape(-1, 2)
    frame = np.array([frame_size[1], frame_size[0]])
    low, high = points.min(axis=0), points.max(axis=0)
    room = np.maximum((frame - (high - low)) / 2 - _MARGIN * frame_size[0], 0)
    off = frame * 0.5 + np.array([0.0, _LOWERED * frame_size[0]]) - (low + high) / 2
    off = off + rng.uniform(-1, 1, 2) * np.minimum(_OFF_CENTRE * frame_size[0], room)
    # The camera adds the translation before it scales, and its y points up.
    shift = off / (canvas.side / 2) * np.array([1, -1]) / track.scale
    return dataclasses.replace(track, translation=(track.translation + shift).astype(np.float32))
