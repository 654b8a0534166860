"""Wires that no option or key leads to, and every option of the methods of ``FaceAnimator``."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

import safa
from safa.inference import face_animator, face_tracking
from safa.inference.face_animator import FaceAnimator
from safa.inference.face_crop import crop_face, smooth_track
from safa.inference.inputs import FrameSource
from tests.contract.wires.world import BLUE, RED, World


class Finder:
    """Finds a face where a frame's first pixel says, in tens of px."""

    def crop_boxes(self, frames: Iterable[Any]) -> Iterator[Any]:
        for frame in frames:
            yield np.array([float(frame[0, 0, 0]), 20.0, 30.0])

    def faces(self, frame: Any) -> list[Any]:
        return list(self.crop_boxes([frame]))


def _frames(world: World) -> list[Any]:
    frames = [world.picture(RED if n % 2 else BLUE, seed=n) for n in range(6)]
    for number, frame in enumerate(frames):
        frame[0, 0, 0] = 10 + 8 * number
    return frames


@pytest.fixture
def animator(world: World) -> FaceAnimator:
    return FaceAnimator(world.model, torch.device("cpu"), batch_size=4)


def test_reconstruct_is_driven_by_every_frame(world: World, animator: FaceAnimator) -> None:
    """The first frame gives the face, and each frame its own motion."""
    frames = _frames(world)
    rendered = list(animator.reconstruct(frames, crop=False).rendered_frames)
    shown = [frame.driving for frame in rendered]
    assert len(shown) == 6
    for one, other in pairwise(shown):
        assert (one != other).any()
    face = animator.prepare(shown[0])
    for number, frame in enumerate(rendered):
        with torch.inference_mode():
            state = world.model.analyse(animator.runner.to_batch([frame.driving]))
            wanted = world.model.reenact(face, state).prediction[0].permute(1, 2, 0)
        got = torch.from_numpy(frame.image.astype(np.float32)) / 255
        assert float((got - wanted).abs().max()) < 0.01, number
    assert any((rendered[0].image != frame.image).any() for frame in rendered[1:])


def test_the_crop_of_a_camera_is_smoothed() -> None:
    """A tenth of the way to where the face is now, frame by frame: the future is not known."""
    frames = [np.full((40, 60, 3), value, np.uint8) for value in (10, 50, 50)]
    camera = FrameSource("camera", 25.0, None, False, None, False, lambda: iter(frames))
    tracked = face_tracking.track_video(camera, Finder(), crop=True)
    assert tracked.track is None
    assert [float(item.crop_box[0]) for item in tracked.open()] == pytest.approx([10.0, 14.0, 17.6])


def test_the_crop_of_a_video_is_smoothed() -> None:
    """Over about a second, whatever the rate."""
    there = np.array([[float(x), 20.0, 30.0] for x in (10, 14) * 100])
    steady = smooth_track(there, 25.0).crop_boxes[80:120, 0]
    assert np.ptp(steady) < 0.01
    assert steady.mean() == pytest.approx(12, abs=0.1)
    less = smooth_track(there, 0.5).crop_boxes[80:120, 0]
    assert np.ptp(less) > 100 * np.ptp(steady)


def test_load_passes_everything_on(world: World) -> None:
    animator = safa.load(
        world.checkpoint, device="cpu", precision="bfloat16", batch_size=3, assets=world.root / "none"
    )
    assert (animator.device.type, animator.batch_size) == ("cpu", 3)
    assert animator._precision == torch.bfloat16
    assert set(inspect.signature(safa.load).parameters) == {
        *("checkpoint", "device", "precision", "batch_size", "assets")
    }


@pytest.mark.parametrize("crop", [True, False])
def test_reconstruct_finds_the_face_unless_asked_not_to(world: World, crop: bool) -> None:
    boxes: list[Any] = []

    def cropped(frame: Any, box: Any, size: int) -> Any:
        boxes.append(box)
        return crop_face(frame, box, size)

    animator = FaceAnimator(world.model, torch.device("cpu"), face_tracker=Finder())
    with patch.object(face_animator, "crop_face", cropped):
        list(animator.reconstruct(_frames(world), crop=crop).rendered_frames)
    sides = {float(box[2]) for box in boxes}
    assert sides == ({30.0} if crop else {40.0})
