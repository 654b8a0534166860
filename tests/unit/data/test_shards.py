"""Shards and index: every image and every frame's landmarks are one byte range, and the index never lies."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from safa.config.preprocess import EncodingConfig
from safa.data.clip_store import ClipStore, stage
from safa.data.dataset_files import compact, convert, export, verify
from safa.data.images import decode_image, encode_image
from safa.data.shards import (
    FORMAT,
    INDEX,
    MANIFEST,
    SHARDS,
    ClipRecord,
    ShardWriter,
    commit_index,
    gather_index,
    read_index_file,
    stored_clips,
)
from safa.data.video import probe
from safa.errors import ClipError, FailureCode, UserError

PIECES = (5, 5, 3)
COUNT = sum(PIECES)
PNG = EncodingConfig(format="png")


def image(clip: int, number: int) -> np.ndarray:
    pixels = np.full((16, 16, 3), (3 * number + 40 * clip) % 256, np.uint8)
    pixels[4:9, number % 8 : 8] = (200, 90, 30)
    return pixels


def points(clip: int, number: int) -> np.ndarray:
    """No face in every fourth frame."""
    return np.full((68, 2), np.nan if number % 4 == 3 else 100 * clip + number, np.float32)


def record(clip: int, split: str = "train") -> ClipRecord:
    name = f"p{clip % 3}#v{clip}#000000#000013"
    return ClipRecord(name, f"p{clip % 3}", f"v{clip}", split, 0, 13, 25.0, 16, 16, (0, 0, 9, 9), "here")


def add(writer: ShardWriter, clip: int, split: str = "train", *, keep: bool = True) -> None:
    first = 0
    for length in PIECES:
        numbers = range(first, first + length)
        images = [encode_image(image(clip, number), PNG) for number in numbers]
        landmarks = np.stack([points(clip, number) for number in numbers])
        writer.add_piece(record(clip).clip_id, first, images, landmarks, np.full(length, 0.5, np.float32))
        first += length
    if keep:
        writer.keep(record(clip, split))
    else:
        writer.drop()


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Five clips in two shards, whose ids are not in the order of the shards; a sixth one is dropped."""
    folder = tmp_path / "clips"
    with ShardWriter(folder) as writer:
        add(writer, 4)
        add(writer, 5, keep=False)
        add(writer, 2, "test")
    with ShardWriter(folder) as writer:
        for clip in (3, 0, 1):
            add(writer, clip)
    assert commit_index(folder) == 5
    return folder


def test_any_frame_in_any_order_is_its_own_bytes(dataset: Path) -> None:
    store = ClipStore(dataset)
    assert [clip.clip_id for clip in store.clips()] == sorted(record(clip).clip_id for clip in range(5))
    for clip in range(5):
        name, chosen = record(clip).clip_id, [12, 0, 5, 4, 12, 9]
        for number, frame in zip(chosen, store.frames(name, chosen), strict=True):
            np.testing.assert_array_equal(frame, image(clip, number))
        expected = np.stack([points(clip, number) for number in range(COUNT)])
        np.testing.assert_array_equal(store.landmarks(name), expected)
        np.testing.assert_array_equal(store.landmarks(name, chosen), expected[chosen])
        np.testing.assert_array_equal(store.has_face(name), np.isfinite(expected).all((1, 2)))


def test_an_entry_says_what_was_recorded(dataset: Path) -> None:
    store = ClipStore(dataset)
    info = store.info(record(2).clip_id)
    assert vars(record(2, "test")).items() <= vars(info).items()
    assert (info.n_frames, store.clip_id(info.number)) == (COUNT, info.clip_id)
    assert [store.info(int(n)).split for n in store.numbers("test")] == ["test"]
    assert len(store.numbers("train")) == 4
    assert list(store.numbers("other")) == []
    with pytest.raises(KeyError):
        store.info("nobody#v#000000#000001")


@pytest.mark.parametrize("number", [-1, COUNT])
def test_a_frame_that_is_not_there(dataset: Path, number: int) -> None:
    store = ClipStore(dataset)
    with pytest.raises(IndexError, match="has 13 frames"):
        store.frames(record(0).clip_id, [number])
    with pytest.raises(IndexError, match="has 13 frames"):
        store.landmarks(record(0).clip_id, [number])


def test_other_programs_read_it_with_pyarrow_and_pandas_alone(dataset: Path) -> None:
    """docs/data.md's recipe, without this package."""
    manifest = json.loads((dataset / "index.json").read_text())
    index = pd.read_feather(dataset / "index" / manifest["index"])
    clip = index[index.clip_id == record(0).clip_id].iloc[0]
    frames = pa.dataset.dataset(dataset / "shards").to_table().to_pandas()
    rows = frames[frames.clip_id == clip.clip_id].sort_values("frame")
    assert len(rows) == clip.n_frames
    at, sizes = int(clip.image_start[0]), clip.image_size
    shard = manifest["shards"][clip.piece_shard[0]]
    with (dataset / "shards" / shard).open("rb") as file:
        for number in range(int(clip.piece_frames)):
            file.seek(at)
            length = int.from_bytes(file.read(4), "little")
            assert length == sizes[number]
            assert file.read(length) == rows.image.iloc[number]
            at += 4 + length
        file.seek(int(clip.landmarks_start[1]))
        landmarks = np.frombuffer(file.read(136 * 4), "<f4")
    np.testing.assert_array_equal(landmarks, rows.landmarks.iloc[int(clip.piece_frames)])


def test_a_pickled_store_is_small_and_reads_the_same(dataset: Path) -> None:
    store = ClipStore(dataset)
    store.frames(0, [1])
    data = pickle.dumps(store)
    assert len(data) < 1000
    np.testing.assert_array_equal(pickle.loads(data).frames(record(3).clip_id, [7])[0], image(3, 7))


def test_a_clip_written_twice_counts_once(dataset: Path) -> None:
    with ShardWriter(dataset) as writer:
        add(writer, 3)
        add(writer, 9)
    assert commit_index(dataset) == 6
    assert verify(dataset).errors == ()
    assert len(list((dataset / INDEX).iterdir())) == 1


def test_a_shard_without_clips_or_of_a_failed_writer_leaves_nothing(tmp_path: Path) -> None:
    with ShardWriter(tmp_path) as writer:
        add(writer, 0, keep=False)
    with pytest.raises(RuntimeError, match="on purpose"):
        _fail_with_a_shard(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert commit_index(tmp_path) == 0


def _fail_with_a_shard(folder: Path) -> None:
    with ShardWriter(folder) as writer:
        add(writer, 1)
        raise RuntimeError("on purpose")


def test_clips_of_an_unfinished_run_are_seen_by_the_next_one(dataset: Path) -> None:
    with ShardWriter(dataset) as writer:
        add(writer, 7)
    assert record(7).clip_id in stored_clips(dataset)
    assert len(ClipStore(dataset)) == 5  # readers see what was committed


def test_verify_finds_every_kind_of_damage(dataset: Path) -> None:
    clean = verify(dataset)
    assert (clean.clips, clean.frames, clean.errors, clean.unreferenced) == (5, 5 * COUNT, (), ())
    store = ClipStore(dataset)
    shard = dataset / SHARDS / store.pieces(0)[0].shard
    data = bytearray(shard.read_bytes())
    at, length = store.image_range(0, 6)
    data[at + length // 2 : at + length // 2 + 8] = b"\0" * 8
    shard.write_bytes(data)
    assert any("frame 6" in error for error in verify(dataset).errors)
    shard.write_bytes(data[: len(data) // 2])
    assert verify(dataset).errors
    shard.unlink()
    (dataset / SHARDS / f"{'0' * 32}.parquet").write_bytes(b"")
    found = verify(dataset)
    assert found.errors
    assert found.unreferenced == (f"{'0' * 32}.parquet",)


def test_compact_keeps_every_byte(dataset: Path) -> None:
    store = ClipStore(dataset)
    before = {store.clip_id(n): (store.encoded_frames(n, range(COUNT)), store.landmarks(n)) for n in range(5)}
    assert compact(dataset) == (2, 1)
    after = ClipStore(dataset)
    assert verify(dataset).errors == ()
    assert len(list((dataset / SHARDS).iterdir())) == 1
    for name, (images, landmarks) in before.items():
        assert after.encoded_frames(name, range(COUNT)) == images
        np.testing.assert_array_equal(after.landmarks(name), landmarks)
    scores = pq.read_table(next((dataset / SHARDS).iterdir()))["face_score"].to_pylist()
    assert set(scores) == {0.5}
    assert compact(dataset) == (1, 1)


def test_staged_shards_are_copied_once_within_the_budget(dataset: Path, tmp_path: Path) -> None:
    local = tmp_path / "node"
    store = ClipStore(dataset, stage_to=local)
    for number in range(5):
        store.frames(number, [0])
    copies = [path for path in local.iterdir() if path.suffix == ".parquet"]
    assert len(copies) == 2
    shutil.rmtree(dataset / SHARDS)
    np.testing.assert_array_equal(
        ClipStore(dataset, stage_to=local).frames(record(3).clip_id, [7])[0], image(3, 7)
    )
    shard = tmp_path / "x.parquet"
    shard.write_bytes(b"1234")
    assert stage(shard, tmp_path / "full", budget_gb=0.0) == shard


def test_export_in_the_fields_naming(dataset: Path, tmp_path: Path) -> None:
    store = ClipStore(dataset)
    number = store.number(record(2).clip_id)
    video = export(store, number, tmp_path / "out", "mp4")
    assert video == tmp_path / "out" / "test" / f"{record(2).clip_id}.mp4"
    assert probe(video).fps == 25.0
    folder = export(store, number, tmp_path / "out", "png")
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"{n:07d}.png" for n in range(COUNT)]
    np.testing.assert_array_equal(decode_image((folder / names[4]).read_bytes()), image(2, 4))
    np.testing.assert_array_equal(
        np.load(folder.with_name(f"{record(2).clip_id}.landmarks.npy")), store.landmarks(number)
    )


# ---- pieces of one clip by several writers -----------------------------------------------------------------


def add_piece(writer: ShardWriter, clip: int, piece: int) -> None:
    numbers = range(sum(PIECES[:piece]), sum(PIECES[: piece + 1]))
    images = [encode_image(image(clip, number), PNG) for number in numbers]
    landmarks = np.stack([points(clip, number) for number in numbers])
    scores = np.full(len(numbers), 0.5, np.float32)
    writer.add_piece(record(clip).clip_id, numbers[0], images, landmarks, scores)
    writer.keep_piece(record(clip), piece, last=piece == len(PIECES) - 1)


@pytest.fixture
def scattered(tmp_path: Path) -> Path:
    """Clip 0 over three shards, its middle piece twice; clip 1 without its middle, clip 2 without its end."""
    folder = tmp_path / "scattered"
    for pieces in ([(0, 2), (1, 0), (2, 0)], [(0, 1), (2, 1)], [(0, 0), (0, 1), (1, 2)]):
        with ShardWriter(folder) as writer:
            for clip, piece in pieces:
                add_piece(writer, clip, piece)
    return folder


def test_a_clip_is_there_when_all_its_pieces_are(scattered: Path, dataset: Path) -> None:
    assert stored_clips(scattered) == {record(0).clip_id}
    assert list(gather_index(scattered, lambda n_frames, n_faces: None)) == []
    assert stored_clips(scattered) == {record(0).clip_id}
    assert commit_index(scattered) == 1
    store, whole = ClipStore(scattered), ClipStore(dataset)
    name = record(0).clip_id
    assert len({piece.shard for piece in store.pieces(0)}) > 1
    assert store.encoded_frames(name, range(COUNT)) == whole.encoded_frames(name, range(COUNT))
    np.testing.assert_array_equal(store.landmarks(name), whole.landmarks(name))
    assert verify(scattered).errors == ()
    # The forgotten pieces are made again, and then the clip is there, beside the one that was.
    with ShardWriter(scattered) as writer:
        add(writer, 1)
    assert commit_index(scattered) == 2
    assert compact(scattered)[1] == 1
    assert ClipStore(scattered).encoded_frames(name, range(COUNT)) == whole.encoded_frames(name, range(COUNT))
    assert verify(scattered).errors == ()


def test_what_is_complete_may_still_be_refused(scattered: Path) -> None:
    seen = []

    def check(n_frames: int, n_faces: int) -> None:
        seen.append((n_frames, n_faces))
        raise ClipError(FailureCode.NO_FACE, "on purpose")

    (refused,) = gather_index(scattered, check)
    assert (refused.clip_id, refused.error.code) == (record(0).clip_id, "no_face")
    assert seen == [(COUNT, 10)]  # every fourth frame has no face
    assert stored_clips(scattered) == set()
    assert commit_index(scattered) == 0


def test_format_2_is_read_as_before(dataset: Path) -> None:
    store = ClipStore(dataset)
    expected = [store.encoded_frames(n, range(COUNT)) for n in range(5)]
    manifest = json.loads((dataset / MANIFEST).read_text())
    path = dataset / INDEX / manifest["index"]
    table = read_index_file(path)
    shards = [store.pieces(n)[0].shard for n in range(5)]
    place = table.schema.get_field_index("piece_shard")
    old = table.set_column(place, "shard", pa.array(shards)).replace_schema_metadata(None).combine_chunks()
    copy = path.with_name("copy")  # the file itself is mapped
    with pa.OSFile(str(copy), "wb") as file, pa.ipc.new_file(file, old.schema) as writer:
        writer.write_table(old)
    copy.replace(path)
    (dataset / MANIFEST).write_text(json.dumps(manifest | {"format": 2}))
    again = ClipStore(dataset)
    assert [again.encoded_frames(n, range(COUNT)) for n in range(5)] == expected
    with ShardWriter(dataset) as writer:
        add(writer, 7)
    assert commit_index(dataset) == 6
    assert json.loads((dataset / MANIFEST).read_text())["format"] == FORMAT
    assert verify(dataset).errors == ()


# ---- refused -----------------------------------------------------------------------------------------------


def test_an_older_data_set_names_the_command_that_converts_it(
    write_old_clips: Callable[..., Path], clip_row: Callable[..., dict[str, object]], tmp_path: Path
) -> None:
    rows = [clip_row("ann", "train"), clip_row("dan", "test")]
    old = write_old_clips(tmp_path / "old", rows)
    with pytest.raises(UserError, match="safa dataset convert"):
        ClipStore(old)
    assert convert(old, tmp_path / "new") == 2
    assert convert(old, tmp_path / "new") == 2  # nothing is left to do
    store = ClipStore(tmp_path / "new")
    for row in rows:
        assert store.encoded_frames(row["clip_id"], range(6)) == row["frames"]
        expected = np.array(row["landmarks"]).reshape(-1, 68, 2)
        np.testing.assert_array_equal(store.landmarks(row["clip_id"]), expected)
        assert store.info(row["clip_id"]).split == row["split"]


def test_what_is_no_data_set_is_one_line(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(UserError, match=r"no data set here \(index.json\)"):
        ClipStore(tmp_path)
    with ShardWriter(tmp_path / "unfinished") as writer:
        add(writer, 0)
    with pytest.raises(UserError, match="Run the same preprocessing again"):
        ClipStore(tmp_path / "unfinished")
    manifest = json.loads((dataset / MANIFEST).read_text())
    for change in ({"format": 1}, {"index": "../secret.arrow"}, {"shards": ["/etc/passwd"]}, {"clips": 7}):
        (dataset / MANIFEST).write_text(json.dumps(manifest | change))
        with pytest.raises(UserError):
            ClipStore(dataset)
    (dataset / MANIFEST).write_text("[")
    with pytest.raises(UserError, match="not valid JSON"):
        ClipStore(dataset)


@pytest.mark.parametrize("column", ["n_frames", "piece_frames", "image_size", "image_start", "piece_shard"])
def test_an_index_that_does_not_add_up_is_refused(dataset: Path, column: str) -> None:
    manifest = json.loads((dataset / MANIFEST).read_text())
    path = dataset / INDEX / manifest["index"]
    rows = read_index_file(path).to_pylist()
    rows[1][column] = rows[1][column][:-1] if isinstance(rows[1][column], list) else 0
    table = pa.Table.from_pylist(rows, schema=read_index_file(path).schema)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(UserError, match="damaged"):
        ClipStore(dataset)
