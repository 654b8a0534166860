"""Where clips come from: lists with errors, folders of crops, landmark tables; and one clip of each."""

from __future__ import annotations

import csv
import json
import os
import pickle
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from safa.config.preprocess import (
    ClipsSource,
    MetadataSource,
    NoLandmarks,
    PreprocessConfig,
    SidecarLandmarks,
    UrlDownload,
)
from safa.data.clip_maker import check_clip, crop_clip, damaged_clips, write_piece
from safa.data.clip_store import ClipStore
from safa.data.cost_estimate import Rates, estimate_cost
from safa.data.landmarks import points_of_dictionary, read_sidecar, source_frames_at
from safa.data.shards import ShardWriter, commit_index, gather_index
from safa.data.sources import COLUMNS, ClipJob, Listing, list_jobs
from safa.data.video import FrameTimes, Span, read_frames, write_video
from safa.errors import ClipError, FailureCode, UserError

FRAMES = 36


def source_frames_of(count: int, source_fps: float, fps: float) -> np.ndarray:
    """Which source frame each of ``count`` output frames shows, at constant rates."""
    reach = int(np.ceil((count + 1) * source_fps / fps)) + 1
    positions = np.floor(np.arange(reach + 1) * fps / source_fps + 0.5)
    shown: np.ndarray = np.searchsorted(positions, np.arange(count), side="right") - 1
    return shown


def _line(video: str = "v", start: int = 0, split: str = "train") -> list[object]:
    return [video, start, start + 100, "0-0-300-300", 25, 1280, 720, split, "id1"]


def _listing(folder: Path, lines: list[list[object]], encoding: str = "utf-8") -> Listing:
    with (folder / "list.csv").open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([list(COLUMNS), *lines])
    return list_jobs(MetadataSource(kind="metadata", csv=folder / "list.csv", videos=folder))


def test_a_line_given_twice_is_one_clip_and_one_duplicate(tmp_path: Path) -> None:
    listing = _listing(tmp_path, [_line(), _line(start=5), _line()])
    assert [job.start for job in listing.jobs] == [0, 5]
    (row,) = listing.bad_rows
    assert (row.name, row.code) == ("list.csv:4", FailureCode.DUPLICATE)
    assert "line 2" in row.detail


@pytest.mark.parametrize("order", [("train", "test"), ("test", "train"), ("train", "test", "train")])
def test_a_clip_listed_for_both_splits_stays_held_out(order: tuple[str, ...], tmp_path: Path) -> None:
    listing = _listing(tmp_path, [_line(split=split) for split in order])
    assert [job.split for job in listing.jobs] == ["test"]
    assert len(listing.bad_rows) == len(order) - 1
    assert len({row.name for row in listing.bad_rows}) == len(order) - 1


def test_ids_of_youtube_may_begin_with_a_dash(tmp_path: Path) -> None:
    (job,) = _listing(tmp_path, [_line("-0bOHt1DGgo")]).jobs
    assert job.clip_id == "id1#-0bOHt1DGgo#000000#000100"
    assert ClipJob.from_json(job.to_json()) == job


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    assert len(_listing(tmp_path, [_line()], "utf-8-sig").jobs) == 1


def test_a_folder_of_videos_is_needed_only_without_a_download(tmp_path: Path) -> None:
    _listing(tmp_path, [_line()])
    source = MetadataSource(kind="metadata", csv=tmp_path / "list.csv", videos=tmp_path / "later")
    with pytest.raises(UserError, match="no such folder of videos"):
        list_jobs(source)
    policy = UrlDownload(kind="url", url="http://host/{video_id}.mp4")
    assert len(list_jobs(source.model_copy(update={"download": policy})).jobs) == 1


def test_lists_as_spreadsheets_and_pandas_write_them(tmp_path: Path) -> None:
    """Numbers with a point, capitals, blanks after separators, quotes, semicolons or tabs, CRLF, a BOM."""
    (tmp_path / "videos").mkdir()
    values = ["v1", "0.0", "70.0", "60.0-117.4-434.0-491.0", "30.0", "512", "512.0", "Train", "id1"]
    for separator, quote, blank in ((",", "", " "), (";", '"', ""), ("\t", '"', ""), (",", '"', " ")):
        lines = [COLUMNS, values, [*values[:7], "val", "id2"]]
        text = "\r\n".join((separator + blank).join(quote + v + quote for v in line) for line in lines)
        (tmp_path / "list.csv").write_text(text + "\r\n", "utf-8-sig")
        listing = list_jobs(
            MetadataSource(kind="metadata", csv=tmp_path / "list.csv", videos=tmp_path / "videos")
        )
        assert not listing.bad_rows
        first, second = listing.jobs
        assert (first.start, first.end, first.box, first.split) == (0, 70, (60, 117, 434, 491), "train")
        assert (second.person_id, second.split) == ("id2", "test")


def _text_listing(folder: Path, lines: list[str]) -> Listing:
    (folder / "list.csv").write_text("\n".join([",".join(COLUMNS), *lines]))
    return list_jobs(MetadataSource(kind="metadata", csv=folder / "list.csv", videos=folder))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('"v1,0,70,0-0-9-9,30,512,512,train,id1', "a quote is not closed"),
        ("v1,\u0663,70,0-0-9-9,30,512,512,train,id1", "start '\u0663' is not a whole number"),
        ("v1,,70,0-0-9-9,30,512,512,train,id1", "start '' is not a whole number"),
        ("v1,0,70,0-0-9-9,nan,512,512,train,id1", "fps 'nan' is not a number"),
        ("v1,0,70,0-0-9-9,30,512,512,train", "8 fields where line 1 has 9"),
        ("v1,0,70,0-0-9,30,512,512,train,id1", "not left-top-right-bottom"),
        ("v1,0,70,0-0-9-9,30,512,512,some,id1", "neither train nor test"),
    ],
)
def test_a_bad_line_costs_no_other(line: str, reason: str, tmp_path: Path) -> None:
    good = [f"v{n},0,70,0-0-9-9,30,512,512,train,id1" for n in range(5)]
    listing = _text_listing(tmp_path, [line, *good])
    assert len(listing.jobs) == 5
    (row,) = listing.bad_rows
    assert row.name == "list.csv:2"
    assert reason in row.detail


def test_a_list_of_which_nothing_can_be_used_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of its 2 lines can be used.*list\.csv:2: start 'x' is"):
        _text_listing(tmp_path, ["v1,x,70,0-0-9-9,30,512,512,train,id1"] * 2)


def test_a_list_takes_the_videos_that_are_there_whatever_their_suffix(tmp_path: Path) -> None:
    for name in ("v1.webm", "v2.MOV", "v2.mp4", "v3.txt", "._v1.mp4"):
        (tmp_path / name).write_bytes(b"")
    jobs = _listing(tmp_path, [_line("v1"), _line("v2"), _line("v3")]).jobs
    assert [Path(job.video).name for job in jobs] == ["v1.webm", "v2.mp4", "v3.mp4"]


def test_whatever_lies_in_a_folder_of_clips_is_counted(tmp_path: Path) -> None:
    for name in ("a.MP4", "b.mov", "c.webm", "d.m4v", "e.avi", "f.mkv", "._a.mp4", ".DS_Store"):
        (tmp_path / name).write_bytes(b"")
    for name in ("a.landmarks.npy", "b.pkl", "notes.docx", "c.mp3"):
        (tmp_path / name).write_bytes(b"")
    for folder, picture in (("g", "0000000.PNG"), ("h", "0.jpg"), ("i", "readme.md")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / picture).write_bytes(b"")
    listing = list_jobs(ClipsSource(kind="clips", folder=tmp_path))
    assert [job.clip_id for job in listing.jobs] == list("abcdefgh")
    assert {row.name: row.code for row in listing.bad_rows} == dict.fromkeys(
        ("notes.docx", "c.mp3", "i"), FailureCode.BAD_ROW
    )


def test_ids_that_differ_in_zeros_are_not_one_clip(tmp_path: Path) -> None:
    arabic = "\u0660" * 6
    for name in ("p#v#000000#000010", "p#v#0000000#0000010", f"p#v#{arabic}#000010"):
        (tmp_path / f"{name}.mp4").write_bytes(b"")
    listing = list_jobs(ClipsSource(kind="clips", folder=tmp_path))
    assert [job.clip_id for job in listing.jobs] == ["p#v#000000#000010"]
    assert len(listing.bad_rows) == 2


# ---- landmark tables ---------------------------------------------------------------------------------------


def test_the_references_tables(tmp_path: Path) -> None:
    points = np.arange(136, dtype=np.float64).reshape(68, 2)
    for table in (
        {0: {"ldmk": points}, 3: {"ldmk": points + 1}},
        {"0000000.png": {"ldmk": points}, "0000003.png": {"ldmk": points + 1}},
        {0: {"ldmk": points}, 2: {"ldmk": None}, 3: {"ldmk": points + 1}},
        {0: points, 3: points + 1},
        {"0.jpg": points.astype(np.float32), "2.jpg": None, "3.jpg": (points + 1).tolist()},
    ):
        (tmp_path / "clip.pkl").write_bytes(pickle.dumps(table))
        found = read_sidecar(tmp_path / "clip.mp4")
        assert found.dtype == np.float32
        assert np.isnan(found[1:3]).all()
        np.testing.assert_array_equal(found[3], points + 1)


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch trapped",)


def test_a_pickle_that_would_run_something_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.pkl").write_bytes(pickle.dumps({0: _Trap()}))
    with pytest.raises(ClipError, match="not plain data") as caught:
        read_sidecar(tmp_path / "clip.mp4")
    assert caught.value.code is FailureCode.DECODE
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    "table",
    [
        {},
        [1],
        {"x": {"ldmk": np.zeros((68, 2))}},
        {0: {"ldmk": np.zeros((5, 2))}},
        {10**12: {}},
        {-1: {}},
        {float("inf"): {}},
        {999_999: {}},
        {b"\xff": {}},
    ],
)
def test_tables_of_another_kind(table: object) -> None:
    with pytest.raises(ValueError, match="not "):
        points_of_dictionary(table)


@given(st.sampled_from([23.976, 24.0, 25.0, 29.97, 30.0, 50.0, 59.94]), st.sampled_from([12.5, 25.0, 30.0]))
def test_source_frames_far_into_a_video_are_those_from_the_start(source_fps: float, fps: float) -> None:
    everywhere = source_frames_of(3000, source_fps, fps)
    for numbers in (np.arange(0, 40), np.arange(2900, 3000), np.array([7, 1234])):
        np.testing.assert_array_equal(source_frames_at(numbers, source_fps, fps), everywhere[numbers])


# ---- clips -------------------------------------------------------------------------------------------------


def _marked(count: int) -> np.ndarray:
    """Landmarks of frame n are all at (n, n)."""
    return np.tile(np.arange(count, dtype=np.float32)[:, None, None], (1, 68, 2))


def _grey(count: int, size: int = 64) -> Iterator[np.ndarray]:
    for number in range(count):
        yield np.full((size, size, 3), 4 * number + 20, np.uint8)


def _config(tmp_path: Path, **changes: object) -> PreprocessConfig:
    source = ClipsSource(kind="clips", folder=tmp_path)
    settings = {"source": source, "out": tmp_path / "out", "size": 32, "min_frames": 4, "min_box": 32}
    return PreprocessConfig(**{**settings, **changes})  # type: ignore[arg-type]


def _make(job: ClipJob, config: PreprocessConfig) -> int:
    """The clip in a data set of its own; returns the number of its frames."""
    with ShardWriter(config.out / "clips") as shard:
        for piece in crop_clip(job, config):
            write_piece(shard, piece)
    for refused in gather_index(config.out / "clips", partial(check_clip, config)):
        raise refused.error
    commit_index(config.out / "clips")
    return ClipStore(config.out / "clips").num_frames


def _store(tmp_path: Path) -> ClipStore:
    return ClipStore(tmp_path / "out" / "clips")


@pytest.mark.parametrize("start", [0, 20])
def test_sidecars_follow_the_videos_own_frames_whatever_the_lists_rate(tmp_path: Path, start: int) -> None:
    """A 30 fps video, listed at 25 fps: each stored frame must have the landmarks of what it shows."""
    write_video(tmp_path / "v.mp4", _grey(FRAMES * 3 // 2), 30.0, crf=1)
    np.save(tmp_path / "v.landmarks.npy", _marked(FRAMES * 3 // 2))
    job = ClipJob("c", "p", "v", "train", str(tmp_path / "v.mp4"), start, start + 20, 25.0, None, None, None)
    assert _make(job, _config(tmp_path, encoding={"format": "png"})) == 20
    shown = [(frame.mean() - 20) / 4 for frame in _store(tmp_path).frames("c", range(20))]
    marked = _store(tmp_path).landmarks("c")[:, 0, 0] * 2  # 64 px became 32
    np.testing.assert_allclose(marked, shown, atol=0.6)


@pytest.mark.parametrize("start", [0, 30])
def test_sidecars_follow_the_frames_of_a_variable_rate(tmp_path: Path, start: int) -> None:
    """Twenty frames at 10 fps and then others at 30, stored at 25 fps: row i belongs to frame i."""
    ticks = [100 * n if n < 20 else 2000 + round(100 * (n - 20) / 3) for n in range(FRAMES * 3 // 2)]
    times = FrameTimes(Fraction(1, 1000), ticks)
    write_video(tmp_path / "v.mp4", _grey(len(ticks)), 25.0, crf=1, times=times)
    np.save(tmp_path / "v.landmarks.npy", _marked(len(ticks)))
    job = ClipJob("c", "p", "v", "train", str(tmp_path / "v.mp4"), start, start + 30, 25.0, None, None, None)
    assert _make(job, _config(tmp_path, encoding={"format": "png"})) == 30
    shown = [(frame.mean() - 20) / 4 for frame in _store(tmp_path).frames("c", range(30))]
    marked = _store(tmp_path).landmarks("c")[:, 0, 0] * 2  # 64 px became 32
    np.testing.assert_allclose(marked, shown, atol=0.6)
    assert round(shown[0]) == round(start / 2.5)


def test_half_a_face_is_none_and_points_in_no_picture_are_damage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_video(tmp_path / "v.mp4", _grey(30), 25.0, crf=1)
    points = _marked(20)
    points[3, 5], points[4, 6, 1], points[5] = np.nan, np.inf, np.nan
    np.save(tmp_path / "v.landmarks.npy", points)
    job = ClipJob("c", "p", "v", "train", str(tmp_path / "v.mp4"), 0, 30, 25.0, None, None, None)
    assert _make(job, _config(tmp_path)) == 30
    stored = _store(tmp_path).landmarks("c")
    assert np.flatnonzero(np.isnan(stored).any(axis=(1, 2))).tolist() == [3, 4, 5, *range(20, 30)]
    assert np.flatnonzero(np.isnan(stored).all(axis=(1, 2))).tolist() == [3, 4, 5, *range(20, 30)]
    assert "its landmarks end before frame 29" in caplog.text
    points[2] = 5e6
    np.save(tmp_path / "v.landmarks.npy", points)
    with pytest.raises(ClipError, match="lie in no picture"):
        _make(job, _config(tmp_path))


@pytest.mark.parametrize(
    ("kept", "spoiled", "allowed", "share"),
    [
        (1.0, 0.02, 0.2, 0.067),
        (1.0, 0.3, 0.2, None),
        (0.7, 0.0, 0.5, 0.367),
        (0.7, 0.0, 0.2, None),
        (1.0, 0.0, 0.2, 0),
    ],
)
def test_damage_is_tolerated_up_to_a_share(
    kept: float, spoiled: float, allowed: float, share: float | None, tmp_path: Path
) -> None:
    """A spoiled spot, or a tail that is cut; of 30 frames, of which each is decoded from the one before."""
    noise = np.random.default_rng(0)
    frames = [noise.integers(0, 255, (96, 96, 3), dtype=np.uint8) for _ in range(30)]
    write_video(tmp_path / "v.mp4", frames, 25.0)
    data = (tmp_path / "v.mp4").read_bytes()
    middle, length = len(data) // 2, round(len(data) * spoiled)
    data = data[:middle] + bytes(length) + data[middle + length :]
    (tmp_path / "v.mp4").write_bytes(data[: round(len(data) * kept)])
    job = ClipJob("c", "p", "v", "train", str(tmp_path / "v.mp4"), 0, None, 25.0, None, None, None)
    config = _config(tmp_path, landmarks={"kind": "none"}, tolerate_damage=allowed)
    if share is None:
        with pytest.raises(ClipError, match=r"of its frames are damaged, tolerate_damage is 20\.0%"):
            _make(job, config)
    else:
        assert _make(job, config) == (30 if kept == 1 else 20)
    assert damaged_clips(config.out) == ({"c"} if share else set())
    for file in (config.out / "damaged").glob("*.json"):
        assert share == pytest.approx(json.loads(file.read_text())["share"], abs=0.05)
    if spoiled or kept < 1:
        with pytest.raises(ClipError) as refused:
            _make(job, config.model_copy(update={"tolerate_damage": 0.0, "out": tmp_path / "strict"}))
        assert refused.value.code == FailureCode.DECODE


@pytest.mark.parametrize("start", [1, 7, 26, 40])
def test_a_span_is_the_same_wherever_decoding_starts(tmp_path: Path, start: int) -> None:
    write_video(tmp_path / "v.mp4", _grey(58), 30.0, crf=1)
    whole = [frame.mean() for frame in read_frames(tmp_path / "v.mp4", span=Span(0, 48, 25.0))]
    part = [frame.mean() for frame in read_frames(tmp_path / "v.mp4", span=Span(start, 48, 25.0))]
    np.testing.assert_allclose(part, whole[start:], atol=0.5)


def test_a_folder_of_pngs_is_a_clip(tmp_path: Path) -> None:
    name = "p1#v1#000100#000136"
    folder = tmp_path / name
    folder.mkdir()
    for number, frame in enumerate(_grey(FRAMES)):
        Image.fromarray(frame).save(folder / f"{number:07d}.png")
    table = {f"{n:07d}.png": {"ldmk": points} for n, points in enumerate(_marked(FRAMES))}
    (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(table))
    (tmp_path / "empty").mkdir()
    (job,) = list_jobs(ClipsSource(kind="clips", folder=tmp_path)).jobs
    assert (job.person_id, job.video_id, job.start) == ("p1", "v1", 100)
    assert _make(job, _config(tmp_path, encoding={"format": "png"})) == FRAMES
    store = _store(tmp_path)
    assert store.frames(name, [9])[0].mean() == 56
    np.testing.assert_allclose(store.landmarks(name)[:, 5, 1], np.arange(FRAMES) / 2)
    half = _config(tmp_path, fps=12.5, out=tmp_path / "half")
    assert _make(job, half) == FRAMES // 2
    (folder / "0000007.png").unlink()
    with pytest.raises(ClipError, match="without gaps"):
        _make(job, half)


def test_clips_without_landmarks_are_stored_only_on_demand(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", _grey(FRAMES), 25.0)
    (job,) = list_jobs(ClipsSource(kind="clips", folder=tmp_path)).jobs
    with pytest.raises(ClipError) as caught:
        _make(job, _config(tmp_path))
    assert caught.value.code is FailureCode.NO_LANDMARKS
    assert _make(job, _config(tmp_path, landmarks=NoLandmarks(kind="none"))) == FRAMES
    assert np.isnan(_store(tmp_path).landmarks("v")).all()


def test_landmarks_of_another_folder(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", _grey(FRAMES), 25.0)
    (tmp_path / "marks").mkdir()
    np.save(tmp_path / "marks" / "v.landmarks.npy", _marked(FRAMES))
    (job,) = list_jobs(ClipsSource(kind="clips", folder=tmp_path)).jobs
    assert _make(job, _config(tmp_path, landmarks=SidecarLandmarks(folder=tmp_path / "marks"))) == FRAMES


# ---- cost estimate -----------------------------------------------------------------------------------------


def test_a_cost_estimate_adds_up(tmp_path: Path) -> None:
    listing = _listing(tmp_path, [_line(start=100 * n) for n in range(9)] + [_line("w")])
    rates = Rates(
        frames_per_core_s=50.0, bytes_per_frame=1000.0, landmarks_per_gpu_s=None, video_mb_per_s=1.0
    )
    cost = estimate_cost(_config(tmp_path, size=256), listing.jobs, unusable=2, done=3, rates=rates)
    assert (cost.clips, cost.videos, cost.unusable, cost.done) == (10, 2, 2, 3)
    assert cost.hours == pytest.approx(40 / 3600)
    assert cost.core_hours == pytest.approx(1000 / 50 / 3600)
    assert cost.stored_bytes == 1_000_000
    assert "10 from 2 videos (3 done, 2 unusable lines)" in cost.as_text()
    assert cost.download_bytes is None
    policy = UrlDownload(kind="url", url="http://host/{video_id}.mp4")
    web = MetadataSource(kind="metadata", csv=tmp_path / "list.csv", videos=tmp_path, download=policy)
    web_cost = estimate_cost(_config(tmp_path, source=web), listing.jobs, 0, 0, rates)
    # v until frame 900, w until 100, at 25 fps.
    assert web_cost.download_bytes == pytest.approx(40 * 2**20)
    assert estimate_cost(_config(tmp_path, size=512), listing.jobs, 0, 0, rates).stored_bytes == 4_000_000
