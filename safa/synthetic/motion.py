"""How people move: smooth curves at the video's frame rate, each (T,) and made from its own random stream.

Nothing here knows the head: gestures are plain numbers (0 = at rest, 1 = fully done), poses are angles.
``performance.py`` turns them into codes of the head model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from safa.config.synthetic import MotionConfig

Curve = NDArray[np.float64]  # (T,)

_USUAL = 0.46  # root mean square of the displacement from the first frame, of the limit


@dataclass(frozen=True)
class Gestures:
    """What the face does. Every curve is (T,) in [0, 1]."""

    jaw: Curve
    spread: Curve  # lips drawn wide, as in "ee"
    pucker: Curve  # lips drawn together and forward, as in "oo"
    smile: Curve
    brow_raise: Curve
    brow_frown: Curve
    blink: Curve


@dataclass(frozen=True)
class HeadPose:
    """Where the head is. Angles in radians, (T,); positive yaw turns to the person's left (image right)."""

    yaw: Curve
    pitch: Curve  # positive looks down
    roll: Curve
    sway_x: Curve  # image right, in face heights
    sway_y: Curve  # image down, in face heights
    zoom: Curve  # factor around 1


def smooth_noise(rng: Generator, frames: int, fps: float, hertz: float) -> Curve:
    """Noise of mean 0 and variance about 1 with hardly any power above ``hertz``."""
    sigma = fps / (2 * np.pi * hertz) * 1.2
    margin = int(4 * sigma) + 1
    noise = gaussian_filter1d(rng.standard_normal(frames + 2 * margin), sigma, mode="nearest")
    # A Gaussian of width sigma leaves 1 / (2 sigma sqrt(pi)) of white noise's variance.
    curve: Curve = noise[margin : margin + frames] * np.sqrt(2 * sigma * np.sqrt(np.pi))
    return curve


def _ease(x: Curve) -> Curve:
    """Minimum-jerk step from 0 to 1 (Flash & Hogan 1985): how people move from rest to rest."""
    x = np.clip(x, 0, 1)
    eased: Curve = x**3 * (10 - 15 * x + 6 * x**2)
    return eased


def turns(rng: Generator, frames: int, fps: float) -> Curve:
    """Moves from one attitude to the next with short holds, within about [-1, 1], starting near 0."""
    time = np.arange(frames) / fps
    here = rng.uniform(-0.3, 0.3)
    curve = np.full(frames, here)
    clock = rng.uniform(0.0, 0.3)
    side = rng.choice([-1.0, 1.0])
    while clock < time[-1]:
        duration = rng.uniform(0.45, 0.9)
        there = side * rng.uniform(0.35, 1.0)
        curve += (there - here) * _ease((time - clock) / duration)
        here, side = there, -side if rng.random() < 0.8 else side
        clock += duration + rng.uniform(0.0, 0.5)
    return curve


def limit(curve: Curve, bound: float) -> Curve:
    """Compress smoothly into (-bound, bound); small values stay as they are."""
    if bound == 0:
        return np.zeros_like(curve)
    return curve / (1 + np.abs(curve / bound) ** 4) ** 0.25


def _excursion(curve: Curve, bound: float, amplitude: float) -> Curve:
    """Rescale the way from the first frame to a set mean square, so that every video moves about as much."""
    way = curve - curve[0]
    rms = np.sqrt(np.mean(way**2))
    way = way * (amplitude * _USUAL * bound / max(rms, 1e-6))
    return limit(curve[0] * bound + way, bound)


@dataclass(frozen=True)
class Restlessness:
    """A course of turning, nodding, tilting and leaning without units; ``scaled`` says how far it goes."""

    yaw: Curve
    pitch: Curve
    roll: Curve
    sway_x: Curve
    sway_y: Curve
    zoom: Curve

    @classmethod
    def draw(cls, rng: Generator, frames: int, fps: float) -> Restlessness:
        """A new course of ``frames`` frames."""
        streams = rng.spawn(6)
        yaw = turns(streams[0], frames, fps) + 0.04 * smooth_noise(streams[0], frames, fps, 1.5)
        pitch = 0.6 * turns(streams[1], frames, fps) + 0.2 * smooth_noise(streams[1], frames, fps, 1.2)
        return cls(yaw, pitch, *(0.5 * smooth_noise(s, frames, fps, 0.5) for s in streams[2:]))

    def scaled(self, config: MotionConfig, amplitude: float) -> HeadPose:
        """The course with swings of about ``amplitude`` times half of the limits, never beyond the limits."""
        return HeadPose(
            yaw=_excursion(self.yaw, np.radians(config.yaw_deg), amplitude),
            pitch=_excursion(self.pitch, np.radians(config.pitch_deg), amplitude),
            roll=_excursion(self.roll, np.radians(config.roll_deg), amplitude),
            sway_x=_excursion(self.sway_x, config.sway, amplitude),
            sway_y=_excursion(self.sway_y, config.sway * 0.5, amplitude),
            zoom=1 + _excursion(self.zoom, config.zoom, amplitude),
        )


def _bump(frames: int, fps: float, start: float, rise: float, hold: float, fall: float) -> Curve:
    time = np.arange(frames) / fps - start
    return _ease(time / rise) * (1 - _ease((time - rise - hold) / fall))


def narrowing(rng: Generator, frames: int, fps: float) -> Curve:
    """How far the lids come down between blinks, 0 to 0.7: often not at all."""
    curve: Curve = 0.7 * np.clip(smooth_noise(rng, frames, fps, 0.8) - 0.2, 0, 1)
    return curve


def blinks(rng: Generator, frames: int, fps: float) -> Curve:
    """Blinks of 200-500 ms with pauses of 0.3 to 1.2 s; the lid falls faster than it rises.

    People blink less, and shorter. But a model that hardly ever sees closed eyes learns to keep them open
    (docs/learning.md).
    """
    curve = np.zeros(frames)
    clock = rng.uniform(0.0, 1.0)
    while clock < frames / fps:
        length = rng.uniform(0.20, 0.50)
        curve = np.maximum(curve, _bump(frames, fps, clock, 0.35 * length, 0.15 * length, 0.5 * length))
        clock += length + rng.uniform(0.3, 1.2)
    return curve


def _syllables(rng: Generator, frames: int, fps: float) -> tuple[Curve, Curve, Curve]:
    """Jaw opening and the lips' two shapes, phrase by phrase; between phrases the mouth rests closed."""
    jaw, spread, pucker = np.zeros(frames), np.zeros(frames), np.zeros(frames)
    clock, end = rng.uniform(-0.2, 0.25), frames / fps
    while clock < end:
        for _ in range(rng.integers(4, 11)):  # one phrase
            length = 1 / rng.uniform(3.2, 5.5)
            opening = _bump(frames, fps, clock, 0.5 * length, 0.05 * length, 0.6 * length)
            jaw = np.maximum(jaw, rng.beta(2.2, 1.6) * opening)
            vowel = rng.random()
            shape = _bump(frames, fps, clock - 0.3 * length, 0.7 * length, 0.3 * length, 0.7 * length)
            if vowel < 0.33:
                spread = np.maximum(spread, rng.uniform(0.4, 1.0) * shape)
            elif vowel < 0.63:
                pucker = np.maximum(pucker, rng.uniform(0.4, 1.0) * shape)
            clock += length
        clock += rng.uniform(0.15, 0.55)
    return jaw, spread, pucker


def _positive(curve: Curve) -> Curve:
    """Nothing below 0, and softly towards 1."""
    return np.tanh(np.clip(curve, 0, None))


def gestures(rng: Generator, frames: int, fps: float, amplitude: float) -> Gestures:
    """Speech, smiles, brows and blinks of one video. Blinks stay full whatever the ``amplitude`` (0..1)."""
    speech, mood, brows, lids = rng.spawn(4)
    jaw, spread, pucker = _syllables(speech, frames, fps)
    smile = _positive(0.3 + 0.8 * smooth_noise(mood, frames, fps, 0.8))
    raised = _positive(smooth_noise(brows, frames, fps, 0.7) - 0.3)
    frown = _positive(0.8 * smooth_noise(brows, frames, fps, 0.5) - 0.6)
    return Gestures(
        jaw=amplitude * jaw,
        spread=amplitude * spread * (1 - 0.7 * pucker),
        pucker=amplitude * pucker,
        smile=amplitude * smile * (1 - 0.6 * pucker),
        brow_raise=amplitude * raised,
        brow_frown=amplitude * frown * (1 - raised),
        blink=np.maximum(narrowing(lids, frames, fps), blinks(lids, frames, fps)),
    )
