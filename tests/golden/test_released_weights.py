"""A checkpoint in the released layout, at full size, animates a real face from the command line."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from parity_cases.golden import Golden

from safa.cli import main
from safa.data.video import read_frames, write_video

FRAMES = 3
REAL = Path(__file__).parents[3] / "shared" / "real"

pytestmark = pytest.mark.slow


def test_download_to_video(set_a: Path, tmp_path: Path) -> None:
    """The weights are the deterministic ones of the reference tensors: the path is real, the face is not."""
    photo, clip = REAL / "images" / "lp_s0.jpg", REAL / "clips256" / "safa_02.mp4"
    if not (photo.is_file() and clip.is_file()):
        pytest.skip("real faces (../shared/real) are not here")
    golden = Golden(set_a)
    networks = {
        "generator": golden.safa.generator,
        "kp_detector": golden.safa.kp_detector,
        "discriminator": golden.discriminator,
        "tdmm": golden.safa.tdmm,
    }
    released = tmp_path / "safa.pth.tar"
    torch.save({name: network.state_dict() for name, network in networks.items()} | {"epoch": 50}, released)
    driving, model, result = tmp_path / "driving.mp4", tmp_path / "model", tmp_path / "out.mp4"
    write_video(driving, islice(read_frames(clip), FRAMES), fps=25)

    assert main(["checkpoint", "convert", str(released), "-o", str(model)]) == 0
    command = ["animate", str(photo), str(driving), "-o", str(result), "--checkpoint", str(model)]
    assert main([*command, "--relative", "--adapt-scale", "--device", "cpu", "--batch-size", "2"]) == 0

    frames = list(read_frames(result))
    assert len(frames) == FRAMES
    assert all(frame.shape == (256, 256, 3) for frame in frames)
    assert np.stack(frames).std() > 1  # not one flat colour
