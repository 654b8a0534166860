"""Ids, boxes, encoded frames, and random access to stored clips."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safa.config.preprocess import EncodingConfig
from safa.data.clip_store import ClipStore
from safa.data.crop import Box, points_in_crop
from safa.data.images import decode_image, encode_image
from safa.data.schema import CLIP_SCHEMA, ClipId, is_safe_name
from safa.errors import UserError

PIECES = (5, 5, 3)


def frame(number: int) -> np.ndarray:
    picture = np.full((16, 16, 3), 3 * number, np.uint8)
    picture[4:9, number % 8 : 8] = (200, 90, 30)
    return picture


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of 13 frames in three pieces each, the second one's pieces in the wrong order."""
    root = tmp_path_factory.mktemp("clips")
    for clip_id, order in (("p0#v0#000000#000013", (0, 1, 2)), ("p1#v1#000000#000013", (2, 0, 1))):
        path = root / "split=train" / f"{clip_id}.parquet"
        path.parent.mkdir(exist_ok=True)
        with pq.ParquetWriter(path, CLIP_SCHEMA) as writer:
            for piece in order:
                first = sum(PIECES[:piece])
                numbers = range(first, first + PIECES[piece])
                row = {
                    **{"clip_id": clip_id, "person_id": clip_id[:2], "video_id": "v", "split": "train"},
                    **{"start": 0, "end": 13, "piece": piece, "n_frames": len(numbers), "fps": 25.0},
                    **{"height": 16, "width": 16, "face_score": [0.5] * len(numbers), "bbox": [0, 0, 9, 9]},
                    "frames": [encode_image(frame(n), EncodingConfig(format="png")) for n in numbers],
                    "landmarks": [[float(n)] * 136 for n in numbers],
                    "source": "here",
                }
                writer.write_table(pa.Table.from_pylist([row], schema=CLIP_SCHEMA))
    return root


@pytest.mark.parametrize("clip_id", ["p0#v0#000000#000013", "p1#v1#000000#000013"])
def test_any_frame_in_any_order(folder: Path, clip_id: str) -> None:
    store = ClipStore(folder)
    wanted = [12, 0, 5, 4, 12, 9]
    for number, found in zip(wanted, store.frames(clip_id, wanted), strict=True):
        np.testing.assert_array_equal(found, frame(number))
    np.testing.assert_array_equal(store.landmarks(clip_id)[:, 0, 0], np.arange(13))
    assert store.info(clip_id).n_frames == 13


def test_a_pickled_store_reads_the_same(folder: Path) -> None:
    store = ClipStore(folder)
    store.frames("p0#v0#000000#000013", [1])
    data = pickle.dumps(store)
    assert len(data) < 4000  # no frames travel
    again = pickle.loads(data)
    np.testing.assert_array_equal(again.frames("p0#v0#000000#000013", [7])[0], frame(7))


@pytest.mark.parametrize("number", [-1, 13])
def test_a_frame_that_is_not_there(folder: Path, number: int) -> None:
    with pytest.raises(IndexError, match="has 13 frames"):
        ClipStore(folder).frames("p0#v0#000000#000013", [number])


def test_errors_of_a_folder_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no clips here"):
        ClipStore(tmp_path)
    (tmp_path / "split=train").mkdir()
    (tmp_path / "split=train" / "x.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match=r"x\.parquet: not a file of clips"):
        ClipStore(tmp_path)


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
