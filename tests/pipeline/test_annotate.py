"""A column that is added later: whole, finished after a kill, read by index, and the shards untouched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import torch

from pipelines import annotate
from safa.config.annotate import AnnotateConfig, IdentityColumn, LandmarksColumn, QualityColumn
from safa.config.preprocess import DetectorConfig, FaceAlignmentLandmarks
from safa.data.clip_store import ClipStore
from safa.data.columns import annotated_clips, column_folder
from safa.data.shards import ClipRecord, ShardWriter, commit_index
from safa.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@pytest.fixture
def clips(tiny_clips: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_clips, tmp_path / "clips"))


def _files(folder: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and "columns" not in p.parts}


def test_quality_of_every_frame(clips: Path) -> None:
    before = _files(clips)
    config = AnnotateConfig(clips=clips, name="quality", column=QualityColumn(kind="quality"))
    store = ClipStore(clips)
    assert annotate.annotate(config) == {"in": len(store), "ok": len(store), "quarantined": 0, "pending": 0}
    assert _files(clips) == before  # shards are never rewritten
    rows = pyarrow.dataset.dataset(clips / "columns/quality/parts").to_table().to_pylist()
    assert len(rows) == store.num_frames
    for row in rows:
        (frame,) = store.frames(row["clip_id"], [row["frame"]])
        assert row["exposure"] == pytest.approx((frame @ [0.299, 0.587, 0.114]).mean() / 255, abs=1e-5)
        assert row["sharpness"] >= 0
    with pytest.raises(UserError, match="of quality, not of landmarks"):
        ClipStore(clips, landmarks="quality")
    with pytest.raises(UserError, match="no column 'other'"):
        ClipStore(clips, landmarks="other")


class Mean(torch.nn.Module):
    """The mean colour as who it is."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean((2, 3))


def test_identity_and_what_a_damaged_frame_costs(clips: Path, tmp_path: Path) -> None:
    torch.jit.script(Mean()).save(str(tmp_path / "identity.pt"))  # type: ignore[no-untyped-call]
    store = ClipStore(clips)
    at, length = store.image_range(1, 2)
    shard = clips / "shards" / store.pieces(1)[0].shard
    data = bytearray(shard.read_bytes())
    data[at : at + length] = bytes(length)
    shard.write_bytes(data)
    column = IdentityColumn(kind="identity", weights=tmp_path / "identity.pt")
    config = AnnotateConfig(clips=clips, name="who", column=column)
    counts = annotate.annotate(config)
    assert counts == {"in": len(store), "ok": len(store) - 1, "quarantined": 1, "pending": 0}
    (row,) = pq.read_table(clips / "columns/who/failures.parquet").to_pylist()
    assert (row["id"], row["code"]) == (store.clip_id(1), "decode")
    rows = pyarrow.dataset.dataset(clips / "columns/who/parts").to_table().to_pylist()
    (frame,) = store.frames(rows[0]["clip_id"], [rows[0]["frame"]])
    np.testing.assert_allclose(rows[0]["identity"], frame.mean((0, 1)) / 255, atol=1e-4)


def _landmarks(frames: Any, points: np.ndarray) -> dict[str, np.ndarray]:
    """The stored ones, moved; none in every frame with an odd first pixel."""
    moved = points.reshape(len(frames), -1) + 1.5  # (N, 68, 2) -> (N, 136)
    moved[[frame[0, 0, 0] % 2 == 1 for frame in frames]] = np.nan
    return {"landmarks": moved, "face_score": np.ones(len(frames), np.float32)}


class Maker(annotate.ColumnMaker):
    """With a function in place of networks whose weights are not here."""

    def __init__(self, config: AnnotateConfig) -> None:
        annotate.make_annotator = lambda config: _landmarks
        super().__init__(config)


@pytest.fixture
def own_landmarks(clips: Path) -> Iterator[AnnotateConfig]:
    detector = DetectorConfig(name="sfd", weights=clips)
    found = FaceAlignmentLandmarks(kind="face_alignment", detector=detector, weights=clips)
    config = AnnotateConfig(
        clips=clips, name="moved", column=LandmarksColumn(kind="landmarks", detector=found)
    )
    with (
        patch.object(annotate, "ColumnMaker", Maker),
        patch.object(annotate, "make_annotator", lambda config: _landmarks),
        patch.object(annotate, "FRAMES_PER_BLOCK", 1),
    ):
        yield config


def test_a_column_of_landmarks_is_read_by_index_and_finished_by_the_next_run(
    clips: Path, own_landmarks: AnnotateConfig
) -> None:
    annotate.annotate(own_landmarks)
    folder = column_folder(clips, "moved")
    store, chosen = ClipStore(clips), ClipStore(clips, landmarks="moved")
    for number in range(len(store)):
        frames = store.frames(number, range(store.n_frames(number)))
        expected = _landmarks(frames, store.landmarks(number))["landmarks"].reshape(-1, 68, 2)
        np.testing.assert_array_equal(chosen.landmarks(number), expected)
        np.testing.assert_array_equal(chosen.landmarks(number, [1, 0]), expected[[1, 0]])
        np.testing.assert_array_equal(chosen.has_face(number), np.isfinite(expected).all((1, 2)))
        assert chosen.encoded_frames(number, [0]) == store.encoded_frames(number, [0])
    # A run that was killed before the last part, and one that had not begun with it.
    part = sorted((folder / "index").iterdir())[0]
    part.unlink()
    (folder / "column.json").unlink()
    missing = set(store.column("clip_id").to_pylist()) - annotated_clips(folder)
    assert len(missing) == 1
    there = {path: path.stat().st_mtime_ns for path in (folder / "index").iterdir()}
    annotate.annotate(own_landmarks)
    assert part.exists()
    assert {path: path.stat().st_mtime_ns for path in there} == there
    np.testing.assert_array_equal(ClipStore(clips, landmarks="moved").landmarks(0), chosen.landmarks(0))


def test_clips_that_a_column_lacks_have_no_landmarks(clips: Path, own_landmarks: AnnotateConfig) -> None:
    annotate.annotate(own_landmarks)
    store = ClipStore(clips)
    info = store.info(0)
    record = {name: getattr(info, name) for name in ClipRecord.__dataclass_fields__}
    with ShardWriter(clips) as writer:
        images = store.encoded_frames(0, range(info.n_frames))
        writer.add_piece(
            "zoe#v#000000#000006", 0, images, store.landmarks(0), np.ones(len(images), np.float32)
        )
        writer.keep(ClipRecord(**record | {"clip_id": "zoe#v#000000#000006"}))
    commit_index(clips)
    chosen = ClipStore(clips, landmarks="moved")
    number = chosen.number("zoe#v#000000#000006")
    assert np.isnan(chosen.landmarks(number)).all()
    assert not chosen.has_face(number).any()
    assert chosen.has_face(0).any()
