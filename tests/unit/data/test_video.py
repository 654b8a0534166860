"""Video in and out: every frame, in its place, in its colours; damage is reported."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from safa.data.crop import Box
from safa.data.landmarks import read_sidecar, sidecar_of
from safa.data.video import DecodeError, Span, probe, read_frames, write_video
from safa.errors import ClipError, FailureCode, UserError

COLOURS = np.array(
    [[235, 30, 40], [20, 200, 60], [40, 50, 220], [128, 128, 128], [16, 16, 16], [240, 240, 240]]
)


BITS = 8


def source_frames_of(count: int, source_fps: float, fps: float) -> np.ndarray:
    """Which source frame each of ``count`` output frames shows, at constant rates."""
    reach = int(np.ceil((count + 1) * source_fps / fps)) + 1
    positions = np.floor(np.arange(reach + 1) * fps / source_fps + 0.5)
    shown: np.ndarray = np.searchsorted(positions, np.arange(count), side="right") - 1
    return shown


def numbered(count: int, size: tuple[int, int] = (48, 64)) -> Iterator[np.ndarray]:
    """Frame n shows n as black and white stripes, one for each bit."""
    stripe = -(-size[1] // BITS)
    for number in range(count):
        bits = np.array([255 * (number >> bit & 1) for bit in range(BITS)], np.uint8)
        row = bits.repeat(stripe)[: size[1]]
        yield np.ascontiguousarray(np.broadcast_to(row[None, :, None], (*size, 3)))


def numbers(frames: list[np.ndarray]) -> list[int]:
    columns = [int((bit + 0.5) * frames[0].shape[1] / BITS) for bit in range(BITS)]
    return [
        sum(int(frame[len(frame) // 2, column, 1] > 127) << bit for bit, column in enumerate(columns))
        for frame in frames
    ]


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "it's a [video]; %d.mp4"
    assert write_video(path, numbered(90), 30.0, crf=1) == 90
    return path


def test_what_is_written_comes_back(movie: Path) -> None:
    info = probe(movie)
    assert (info.width, info.height, info.fps) == (64, 48, 30.0)
    assert info.duration == pytest.approx(3.0, abs=0.05)
    assert numbers(list(read_frames(movie))) == list(range(90))


@pytest.mark.parametrize(("start", "end"), [(0, 10), (1, 2), (17, 60), (80, 90), (85, 200)])
def test_a_span_is_exactly_its_frames(movie: Path, start: int, end: int) -> None:
    assert numbers(list(read_frames(movie, span=Span(start, end, 30.0)))) == list(range(start, min(end, 90)))


@pytest.mark.parametrize("fps", [25.0, 12.5, 50.0])
def test_landmarks_know_which_frame_is_shown(movie: Path, fps: float) -> None:
    shown = numbers(list(read_frames(movie, span=Span(7, 87, 30.0), fps=fps)))
    assert shown == list(7 + source_frames_of(len(shown), 30.0, fps))


def test_crop_and_scale(movie: Path) -> None:
    frames = list(read_frames(movie, box=Box(0, 8, 64, 40), size=(16, 32)))
    assert frames[0].shape == (16, 32, 3)
    assert numbers(frames) == list(range(90))
    stripe = list(read_frames(movie, box=Box(8, 0, 16, 48)))  # the stripe of bit 1
    assert stripe[0].shape == (48, 8, 3)
    assert [int(frame[24, 4, 0] > 127) for frame in stripe] == [number >> 1 & 1 for number in range(90)]


@pytest.mark.parametrize("size", [(48, 60), (720, 1280)])
def test_colours_and_levels_survive(size: tuple[int, int], tmp_path: Path) -> None:
    """A chart of pure colours comes back within rounding, whatever matrix players guess for the size."""
    chart = np.repeat(COLOURS.astype(np.uint8), size[1] // len(COLOURS), axis=0)[None].repeat(size[0], 0)
    chart = chart[:, : size[1] // 2 * 2]
    chart = np.pad(chart, ((0, 0), (0, size[1] - chart.shape[1]), (0, 0)), mode="edge")
    write_video(tmp_path / "chart.mp4", [chart] * 2, 25.0, crf=1)
    back = next(read_frames(tmp_path / "chart.mp4"))
    step = size[1] // len(COLOURS)
    for number, colour in enumerate(COLOURS):
        middle = back[
            size[0] // 4 : -size[0] // 4, number * step + step // 3 : (number + 1) * step - step // 3
        ]
        assert np.abs(middle.astype(int) - colour).max() <= 4


def test_odd_sizes_get_one_more_row_and_column(tmp_path: Path) -> None:
    write_video(tmp_path / "odd.mp4", numbered(3, (33, 41)), 25.0)
    assert next(read_frames(tmp_path / "odd.mp4")).shape == (34, 42, 3)


def test_the_comment_is_stored(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", numbered(2), 25.0, comment="made by a model")
    assert b"made by a model" in (tmp_path / "a.mp4").read_bytes()


def test_a_truncated_file_is_an_error(movie: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(movie.read_bytes()[: movie.stat().st_size * 6 // 10])
    with pytest.raises(DecodeError, match=r"cut\.mp4"):
        list(read_frames(cut, size=(8, 8)))


@pytest.mark.parametrize("content", [b"", b"<html>not a video</html>"])
def test_what_is_no_video_is_an_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "page.mp4"
    path.write_bytes(content)
    with pytest.raises(DecodeError, match=r"page\.mp4"):
        probe(path)
    with pytest.raises(DecodeError, match=r"page\.mp4"):
        list(read_frames(path, size=(8, 8)))


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def breaks() -> Iterator[np.ndarray]:
        yield from numbered(3)
        raise RuntimeError("out of ideas")

    with pytest.raises(RuntimeError, match="out of ideas"):
        write_video(tmp_path / "a.mp4", breaks(), 25.0)
    with pytest.raises(ValueError, match="frame 1 is"):
        write_video(tmp_path / "a.mp4", [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], 25.0)
    with pytest.raises(ValueError, match="no frame"):
        write_video(tmp_path / "a.mp4", [], 25.0)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_left_early_leaves_no_process(movie: Path) -> None:
    def decoders() -> int:
        running = subprocess.run(["ps", "-efww"], capture_output=True, text=True, check=True).stdout
        return sum(f" {os.getpid()} " in line and "safa.decoder" in line for line in running.splitlines())

    reader = read_frames(movie)
    next(reader)
    assert decoders() == 1
    reader.close()
    assert decoders() == 0


def test_sidecars(tmp_path: Path) -> None:
    video = tmp_path / "v.mp4"
    with pytest.raises(ClipError, match=r"v\.landmarks\.npy is missing") as caught:
        read_sidecar(video)
    assert caught.value.code is FailureCode.NO_LANDMARKS
    np.save(sidecar_of(video), np.zeros((3, 68, 2)))
    assert read_sidecar(video).shape == (3, 68, 2)
    np.save(sidecar_of(video), np.zeros((3, 5, 2)))
    with pytest.raises(ClipError, match="not floats"):
        read_sidecar(video)
    np.save(sidecar_of(video), np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ClipError, match="holds object, not numbers"):
        read_sidecar(video)


def test_the_program_that_writes_has_its_own_bound_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [np.zeros((1080, 1920, 3), np.uint8)] * 3
    monkeypatch.setenv("SAFA_LIMITS", "encoder_bytes=1.5e8")
    with pytest.raises(UserError, match="encoder_bytes=NUMBER"):
        write_video(tmp_path / "a.mp4", frames, 25.0)
    assert [*tmp_path.iterdir()] == []


def test_sound_is_read_from_no_list_of_files(tmp_path: Path) -> None:
    """The second of two locks: the decoder refuses such a file before."""
    frames = [np.zeros((32, 32, 3), np.uint8)] * 3
    write_video(tmp_path / "secret.mp4", frames, 25.0)
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{tmp_path}/secret.mp4'\n")
    with pytest.raises(UserError, match=r"cannot be written \("):
        write_video(tmp_path / "a.mp4", frames, 25.0, sound_from=tmp_path / "list.mp4")
