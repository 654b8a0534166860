"""Ids of clips, boxes, and encoded frames."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safa.config.preprocess import EncodingConfig
from safa.data.crop import Box, points_in_crop
from safa.data.images import decode_image, encode_image
from safa.data.schema import ClipId, is_safe_name

NAMES = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)


@given(NAMES, NAMES, st.integers(0, 10**6 - 2), st.integers(1, 1000))
def test_ids_read_back(person: str, video: str, start: int, length: int) -> None:
    clip = ClipId(person, video, start, start + length)
    assert ClipId.parse(str(clip)) == clip
    assert "/" not in str(clip)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a#b", "a b", "x" * 200, "a\n"])
def test_names_that_could_leave_the_folder_are_no_ids(name: str) -> None:
    assert not is_safe_name(name)
    with pytest.raises(ValueError, match="cannot be part"):
        ClipId(name, "v", 0, 1)


@pytest.mark.parametrize("text", ["a-b-c-d", "1-2-3", "5-5-5-9", "1-2-3-4-5", "-1-2-3-4", ""])
def test_boxes_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"left-top-right-bottom|is empty"):
        Box.parse(text)


def test_box_follows_the_real_resolution() -> None:
    assert Box.parse("10-20-110-220").scaled(0.5, 2.0) == Box(5, 40, 55, 440)
    assert Box(-5, 3, 20, 90).clipped(10, 50) == Box(0, 3, 10, 50)
    assert Box(20, 3, 30, 9).clipped(10, 50) is None


def test_a_painted_point_stays_under_its_landmark() -> None:
    """Paint a block of pixels, cut and scale as area averaging does; its centre must be where we say."""
    source = np.zeros((120, 120), np.float32)
    source[48:52, 72:76] = 1  # the block spans x 72 to 76 and y 48 to 52; its centre is (74, 50)
    box, size = Box(20, 10, 100, 90), 20
    cut = source[10:90, 20:100].reshape(size, 4, size, 4).mean((1, 3))
    rows, columns = np.indices(cut.shape)
    centre = np.array([(columns * cut).sum(), (rows * cut).sum()]) / cut.sum() + 0.5
    np.testing.assert_allclose(points_in_crop(np.array([74, 50], np.float32), box, size), centre, atol=1e-4)
    assert np.isnan(points_in_crop(np.full((2, 2), np.nan, np.float32), box, size)).all()


def test_encodings() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (9, 14, 3), np.uint8)
    np.testing.assert_array_equal(decode_image(encode_image(picture, EncodingConfig(format="png"))), picture)
    smooth = np.linspace(0, 255, 64, dtype=np.uint8)[None, :, None].repeat(64, 0).repeat(3, 2)
    back = decode_image(encode_image(smooth, EncodingConfig(quality=95)))
    assert np.abs(back.astype(int) - smooth).mean() < 1
    with pytest.raises(ValueError, match="not a readable picture"):
        decode_image(encode_image(picture, EncodingConfig())[:60])
