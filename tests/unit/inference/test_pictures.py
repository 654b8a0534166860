"""Pictures in memory: every kind that is taken looks the same to the model; every other is one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from safa.errors import UserError
from safa.inference.pictures import frame_source_of, photo_of

RGB = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
GREY = RGB[..., 0]
OPAQUE = np.dstack([RGB, np.full((20, 30), 255, np.uint8)])


@pytest.mark.parametrize(
    "picture",
    [
        RGB,
        Image.fromarray(RGB),
        RGB / 255,
        (RGB / 255).astype(np.float32),
        RGB.astype(np.uint16) * 257,
        np.moveaxis(RGB, -1, 0),
        np.moveaxis(RGB / 255, -1, 0),
        torch.from_numpy(RGB).permute(2, 0, 1) / 255,
        torch.from_numpy(RGB).permute(2, 0, 1),
        (torch.from_numpy(RGB).permute(2, 0, 1) / 255).requires_grad_(),
        OPAQUE,
        Image.fromarray(OPAQUE),
        np.asfortranarray(RGB),
        RGB[::-1][::-1],
    ],
)
def test_every_kind_of_the_same_picture(picture: Any) -> None:
    assert (photo_of(picture).pixels == RGB).all()


@pytest.mark.parametrize("grey", [GREY, GREY[..., None], GREY[None], Image.fromarray(GREY), GREY / 255])
def test_grey_has_three_equal_channels(grey: Any) -> None:
    assert (photo_of(grey).pixels == np.repeat(GREY[..., None], 3, axis=2)).all()


def test_what_was_changed_is_noted() -> None:
    clear = OPAQUE.copy()
    clear[..., 3] = 0
    photo = photo_of(clear)
    assert (photo.pixels == 255).all()
    assert photo.notes == ("the photo has transparent parts; they are drawn white",)
    assert "16 bits" in photo_of(RGB.astype(np.uint16) * 257).notes[0]
    assert not photo_of(np.zeros((20, 20, 3), np.uint16)).pixels.any()
    assert photo_of(RGB).notes == ()


def test_a_turned_picture_is_upright() -> None:
    image = Image.fromarray(RGB)
    image.getexif()[0x0112] = 6  # turn by 90 degrees
    assert photo_of(image).pixels.shape == (30, 20, 3)


@pytest.mark.parametrize(
    ("picture", "line"),
    [
        (None, "the photo: is of type NoneType, which is no picture. Give a path, a PIL image"),
        (5, "of type int"),
        ({"a": 1}, "of type dict"),
        (b"photo.jpg", "text, not bytes"),
        ([[1, 2], [3, 4]], "of type list"),
        (RGB.astype(np.int64), "values of type int64"),
        (RGB > 100, "values of type bool"),
        (RGB.astype(np.float32), "values from 0 to 254. Floats must lie in"),
        (RGB / 127.5 - 1, "values from -1 to"),
        (np.full((20, 20, 3), np.nan), r"no numbers \(NaN or infinity\)"),
        (np.full((20, 20, 3), np.inf), r"no numbers \(NaN or infinity\)"),
        (RGB.astype(np.uint16), "8-bit values as uint16, whose white is 65535. Convert it to uint8"),
        ("", "the photo: is empty"),
        ("https://host/a.png", "the photo: only a path works here, not the address https://host/a.png"),
        (np.full((20, 20, 3), None), "values of type object"),
        (np.full((20, 20), "a"), "values of type <U1"),
        (np.zeros((20, 20), [("a", "u1")]), "values of type"),
        (np.zeros((20, 20, 2), np.uint8), r"the shape \(20, 20, 2\)"),
        (np.zeros((1, 3, 20, 20), np.uint8), r"the shape \(1, 3, 20, 20\)"),
        (np.zeros((0, 20, 3), np.uint8), "is 20 x 0 px"),
        (np.zeros((8, 20, 3), np.uint8), "is 20 x 8 px"),
        (torch.zeros(3, 20, 20, dtype=torch.complex64), "values of type complex64"),
        (Image.new("F", (20, 20)), "floating-point values"),
    ],
)
def test_everything_else_is_refused_in_one_line(picture: Any, line: str) -> None:
    with pytest.raises(UserError, match=line):
        photo_of(picture)


@pytest.mark.parametrize(
    "frames",
    [
        [RGB] * 3,
        np.stack([RGB] * 3),
        torch.from_numpy(np.stack([RGB] * 3)).permute(0, 3, 1, 2) / 255,
        (Image.fromarray(RGB),) * 3,
        np.stack([RGB] * 3) / 255,
    ],
)
def test_frames_of_every_kind(frames: Any) -> None:
    source = frame_source_of(frames, 10)
    assert (source.repeatable, source.count, source.fps) == (True, 3, 10)
    for _ in range(2):
        assert [(frame == RGB).all() for frame in source.frames()] == [True] * 3
    assert len(list(source.limited(2).frames())) == 2


@pytest.mark.parametrize("one", [RGB, Image.fromarray(RGB), GREY, torch.zeros(3, 20, 20)])
def test_a_single_picture_is_one_frame(one: Any) -> None:
    assert [frame.ndim for frame in frame_source_of(one).frames()] == [3]


def test_grey_frames_and_paths(tmp_path: Path) -> None:
    assert [frame.shape for frame in frame_source_of(np.stack([GREY] * 2)).frames()] == [(20, 30, 3)] * 2
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert [(f == RGB).all() for f in frame_source_of([tmp_path / "a.png", str(tmp_path / "a.png")]).frames()]
    assert frame_source_of(tmp_path).count == 1


def test_a_generator_is_read_once_and_says_so() -> None:
    source = frame_source_of(RGB for _ in range(3))
    assert (source.repeatable, source.count) == (False, None)
    assert len(list(source.frames())) == 3
    with pytest.raises(UserError, match="generator, which can be read only once"):
        list(source.frames())


@pytest.mark.parametrize(
    ("frames", "line"),
    [
        (None, "the frames: are of type NoneType, which is no video"),
        (1.5, "of type float"),
        (True, "of type bool"),
        ({"a": RGB}, "of type dict"),
        (np.zeros((1, 2, 20, 20, 3), np.uint8), r"the shape \(1, 2, 20, 20, 3\)"),
        (np.zeros(20, np.uint8), r"the shape \(20,\)"),
        (97, "camera 97"),
        (None, "a camera's number, or pictures"),
        ("", "the video: is empty"),
        ("https://host/a.mp4", "the video: only a path works here, not the address https://host/a.mp4"),
    ],
)
def test_what_is_no_video_is_refused(frames: Any, line: str) -> None:
    with pytest.raises(UserError, match=line):
        frame_source_of(frames)


@pytest.mark.parametrize(
    "wrong", [lambda: [RGB, None], lambda: iter([RGB, "gone.png"]), lambda: [RGB, RGB * 1.0]]
)
def test_a_wrong_frame_is_named(wrong: Callable[[], Any]) -> None:
    frames = frame_source_of(wrong()).frames()
    next(frames)
    with pytest.raises(UserError, match=r"frame 1: |gone\.png: no such"):
        next(frames)


@pytest.mark.parametrize(
    "nothing", [[], iter(()), np.zeros((0, 16, 16, 3), np.uint8)], ids=lambda v: type(v).__name__
)
def test_no_frames_are_refused(nothing: Any) -> None:
    with pytest.raises(UserError, match=r"^the frames: are none\. Give at least one"):
        list(frame_source_of(nothing).frames())
