"""Settings of the synthetic talking-head data set."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from safa.config.loader import Settings

MIN_CLIP_FRAMES = 8  # shorter clips show no motion worth learning


class MotionConfig(Settings):
    """How far people move. ``travel`` sets how much; the others are limits that are never passed."""

    # Mean way of the landmarks from a clip's first frame, as a share of the face's box in the clip: of the
    # liveliest people and the held-out ones. Short clips may fall short of it.
    travel: float = Field(default=0.10, gt=0, le=0.5)
    yaw_deg: float = Field(default=35.0, ge=0, le=60)  # head turned to one side
    pitch_deg: float = Field(default=15.0, ge=0, le=30)  # nodding, from the rest position
    roll_deg: float = Field(default=10.0, ge=0, le=30)  # head tilted to one side
    sway: float = Field(default=0.10, ge=0, le=0.5)  # of the face height: shift of the whole person
    zoom: float = Field(default=0.06, ge=0, le=0.3)  # relative change of size while leaning in and out
    jaw_deg: float = Field(default=13.0, ge=0, le=30)  # the widest the jaw opens


class SyntheticConfig(Settings):
    """People, videos and frames. The same settings give the same files, whatever the number of processes."""

    seed: int = Field(default=0, ge=0)
    num_people: int = Field(default=12, ge=1)
    num_held_out: int = Field(default=2, ge=0)  # the last of num_people; their clips are the test partition
    videos_per_person: int = Field(default=2, ge=1)
    frames_per_video: int = Field(default=96, ge=MIN_CLIP_FRAMES + 2)
    two_clip_share: float = Field(default=0.25, ge=0, le=1)  # of the videos give two clips instead of one
    frame_size: tuple[int, int] = (240, 200)  # height, width in px; even numbers, as H.264 asks
    face_share: tuple[float, float] = (0.45, 0.55)  # chin to hairline over frame height, from..to over people
    fps: float = Field(default=25.0, gt=0, le=1000)
    crf: int = Field(default=14, ge=0, le=51)  # H.264 quality: 0 lossless, 23 usual, 51 worst
    motion: MotionConfig = MotionConfig()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.num_held_out >= self.num_people:
            raise ValueError("num_held_out must be smaller than num_people, or nobody is left to train on")
        if any(side < 32 or side % 2 for side in self.frame_size):
            raise ValueError("frame_size (height, width) needs even numbers of at least 32")
        if self.frame_size[1] < 0.8 * self.face_share[1] * self.frame_size[0]:
            raise ValueError("frame_size (height, width) is too narrow for a face of face_share")
        if not 0.2 <= self.face_share[0] <= self.face_share[1] <= 0.8:
            raise ValueError("face_share (from, to) must rise and lie within 0.2..0.8")
        if self.two_clip_share > 0 and self.frames_per_video < 2 * MIN_CLIP_FRAMES + 3:
            raise ValueError(
                "frames_per_video is too short for two clips; lengthen it or set two_clip_share to 0"
            )
        return self
