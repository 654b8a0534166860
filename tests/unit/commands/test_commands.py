"""The ``safa`` command as its user types it: what it writes, what it says, and how it refuses."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from safa.data.video import probe, read_frames

Run = Callable[..., tuple[int, str, str]]


def _refused(answer: tuple[int, str, str]) -> str:
    """The one line of a refusal."""
    code, _, err = answer
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_released_weights_animate_a_photo(safa: Run, released: Path, photo: Path, video: Path) -> None:
    model, result = released.with_name("model"), released.with_name("result.mp4")
    converted = safa(
        "checkpoint", "convert", released, "-o", model, "--config", released.with_name("model.yaml")
    )
    assert converted[0] == 0, converted
    code, out, err = safa("animate", photo, video, "-o", result, "--checkpoint", model, "--no-crop")
    assert (code, err) == (0, "")
    assert f"wrote {result}: 7 frames at 12.5 fps" in out
    assert probe(result).fps == 12.5
    assert len(list(read_frames(result))) == 7
    words = ("animate", photo, video, "-o", result, "--checkpoint", model, "--no-crop")
    relative = safa(*words, "--relative", "--adapt-scale")
    assert relative[0] == 0, relative


def test_inspect_lists_the_networks(safa: Run, released: Path) -> None:
    code, out, _ = safa("checkpoint", "inspect", released)
    assert code == 0
    assert "released layout, epoch 50" in out
    for name in ("generator", "kp_detector", "discriminator", "tdmm"):
        assert name in out


def test_a_checkpoint_that_runs_code_is_refused(safa: Run, tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {mark}",)

    path = tmp_path / "evil.pth.tar"
    torch.save({"generator": Evil()}, path)
    for command in (("inspect",), ("convert", "-o", tmp_path / "out")):
        line = _refused(safa("checkpoint", command[0], path, *command[1:]))
        assert "refused to unpickle" in line
        assert "system" in line
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


def test_wrong_sizes_name_the_layers(safa: Run, released: Path) -> None:
    line = _refused(safa("checkpoint", "convert", released, "-o", released.with_name("out")))
    assert "shape" in line or "missing" in line


def test_nothing_is_overwritten(safa: Run, released: Path) -> None:
    assert "already exists" in _refused(safa("checkpoint", "convert", released, "-o", released))


def test_unusable_inputs_are_refused(
    safa: Run, released: Path, photo: Path, video: Path, tmp_path: Path
) -> None:
    model, result = tmp_path / "model", tmp_path / "result.mp4"
    safa("checkpoint", "convert", released, "-o", model, "--config", released.with_name("model.yaml"))

    def animate(source: Path, driving: Path, *more: str, checkpoint: Path = model) -> str:
        return _refused(safa("animate", source, driving, "-o", result, "--checkpoint", checkpoint, *more))

    broken = tmp_path / "broken.mp4"
    broken.write_bytes(video.read_bytes()[:300])
    assert "photo" in animate(video, video)
    assert "broken.mp4" in animate(photo, broken)
    assert "gone.mp4" in animate(photo, tmp_path / "gone.mp4")
    assert "nowhere" in animate(photo, video, checkpoint=tmp_path / "nowhere")
    assert "--adapt-scale" in animate(photo, video, "--adapt-scale")
    assert "--device" in animate(photo, video, "--device", "abacus")
    assert not result.exists()


def test_assets_are_listed_with_licence_and_owner(safa: Run, tmp_path: Path) -> None:
    code, out, _ = safa("assets", "check", "--folder", tmp_path)
    assert code == 0
    for name in ("FLAME", "VGG19", "MobileNetV2"):
        assert name in out or name.lower() in out
    assert out.count("licence") >= 5


@pytest.mark.parametrize(
    "arguments",
    [
        ["animate", "a.png", "b.mp4", "--checkpoint", "a", "-o", "s3://bucket/a"],
        ["reconstruct3d", "a.png", "s3://bucket/a", "--checkpoint", "b", "-o", "c"],
    ],
)
def test_a_uri_is_refused_where_only_a_path_works(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from safa.cli import main

    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "only a path works here, not the address s3://bucket/a." in error
    assert error.count("\n") == 1
