"""The decoder: times and facts of all kinds of files, what it refuses, and within which bounds."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from safa.data.video import DecodeError, FrameTimes, Span, VideoReader, probe, read_frames, write_video

SLOW, FAST = 20, 60  # frames at 10 and then at 30 per second, as a phone records them
PHONE = [Fraction(n, 10) if n < SLOW else 2 + Fraction(n - SLOW, 30) for n in range(SLOW + FAST)]
STEP = 3  # levels between two frames


def _ffmpeg(*arguments: object) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    subprocess.run(command, check=True)


def _shades(count: int) -> Iterator[np.ndarray]:
    return (np.full((48, 64, 3), STEP * number, np.uint8) for number in range(count))


def _read(path: Path, **options: object) -> tuple[list[int], list[float], list[int]]:
    """Of each frame its number by its shade, its time in seconds, and its row in the file."""
    with VideoReader(path) as reader:
        frames = list(reader.frames(**options))  # type: ignore[arg-type]
        times = [float(frame.ticks * reader.time_base) for frame in frames]
    numbers = [round(float(frame.pixels.mean()) / STEP) for frame in frames]
    return numbers, times, [frame.row for frame in frames]


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video whose rate rises from 10 to 30 frames per second."""
    path = tmp_path_factory.mktemp("phone") / "phone.mp4"
    ticks = [round(time * 30000) for time in PHONE]
    write_video(path, _shades(len(PHONE)), 20.0, crf=1, times=FrameTimes(Fraction(1, 30000), ticks))
    return path


def _recorded(phone: Path) -> Path:
    """As a browser's recorder writes it: milliseconds, and no default duration in the header."""
    path = phone.with_name("recorder.webm")
    _ffmpeg("-i", phone, "-c:v", "libvpx", "-live", 1, "-fps_mode", "passthrough", path)
    data = bytearray(path.read_bytes())
    place = data.find(b"\x23\xe3\x83\x84")  # DefaultDuration
    if place >= 0:
        data[place : place + 8] = b"\xec\x86" + bytes(6)  # Void
        path.write_bytes(data)
    return path


def test_frames_come_once_each_at_their_own_times(phone: Path) -> None:
    numbers, times, rows = _read(phone)
    assert numbers == rows == list(range(80))
    assert times == pytest.approx([float(time) for time in PHONE], abs=1e-4)
    info = probe(phone, count=True)
    assert (info.frames, info.duration) == (80, pytest.approx(4.0, abs=0.04))
    assert info.fps == pytest.approx(20, rel=0.02)


def test_a_browsers_recording_is_read_in_time(phone: Path) -> None:
    path = _recorded(phone)
    info = probe(path, count=True)
    assert (info.width, info.height, info.frames) == (64, 48, 80)
    assert info.duration == pytest.approx(4.0, abs=0.06)
    _, times, rows = _read(path)
    assert rows == list(range(80))
    assert times == pytest.approx([float(time) for time in PHONE], abs=1e-3)


def test_a_constant_rate_shows_what_is_on_at_each_moment(phone: Path) -> None:
    """At 30 fps each frame of the slow part is shown three times, and none of the fast part is left out."""
    expected = [number for number in range(SLOW) for _ in range(3)] + list(range(SLOW, SLOW + FAST))
    numbers, _, rows = _read(phone, fps=30.0)
    assert numbers == rows == expected


@pytest.mark.parametrize("start", [0, 12, 45, 70, 100])
def test_a_span_knows_which_rows_of_the_file_it_shows(phone: Path, start: int) -> None:
    expected = [number for number in range(SLOW) for _ in range(3)] + list(range(SLOW, SLOW + FAST))
    numbers, _, rows = _read(phone, span=Span(start, start + 15, 30.0), rows=True)
    assert numbers == rows == expected[start : start + 15]


def test_rows_stay_right_through_an_hour(tmp_path: Path) -> None:
    """23.976 frames per second: an hour in, a rate of two decimals would be 14 frames off."""
    last = 86_400
    ticks = [*range(0, 1001 * last, 1001 * 400), *(1001 * n for n in range(last, last + 10))]
    path = tmp_path / "hour.mp4"
    shades = (np.full((16, 16, 3), number % 80 * STEP, np.uint8) for number in range(len(ticks)))
    write_video(path, shades, 24.0, times=FrameTimes(Fraction(1, 24000), ticks))
    span = Span(last + 2, last + 6, 24000 / 1001)
    _, times, rows = _read(path, span=span, rows=True)
    assert rows == [len(ticks) - 10 + n for n in (2, 3, 4, 5)]
    assert times == pytest.approx([1001 * (last + n) / 24000 for n in (2, 3, 4, 5)], abs=1e-3)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_moving_pictures_keep_their_frames_and_pauses(suffix: str, tmp_path: Path) -> None:
    images = [Image.fromarray(frame) for frame in _shades(30)]
    path = tmp_path / f"a{suffix}"
    lossless = {"lossless": True} if suffix == ".webp" else {}
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=[30] * 29 + [2000], loop=0, **lossless
    )
    numbers, times, _ = _read(path)
    assert numbers == list(range(30))
    assert times == pytest.approx([0.03 * number for number in range(30)])
    info = probe(path, count=True)
    assert (info.frames, info.duration) == (30, pytest.approx(2.87))
    at_ten = _read(path, fps=10.0)[0]
    assert at_ten[-20:] == [29] * 20  # the pause lasts two seconds


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    frames = [Image.new("RGBA", (32, 32), (200, 0, 0, alpha)) for alpha in (255, 0)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], duration=40, lossless=True)
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=40, blend=0)
    for name in ("a.webp", "a.png"):
        opaque, clear = read_frames(tmp_path / name)
        assert opaque[16, 16].tolist() == [200, 0, 0]
        assert clear[16, 16].tolist() == [255, 255, 255]


def test_one_reader_answers_many_requests(phone: Path) -> None:
    with VideoReader(phone) as reader:
        for _ in range(2):
            assert [frame.row for frame in reader.frames(span=Span(60, 70, 30.0), rows=True)] == list(
                range(20, 30)
            )


def test_timestamps_that_jump_are_refused_at_once(tmp_path: Path) -> None:
    """A few frames, and others 100,000 s later: neither repeated for a day nor kept in memory."""
    path = tmp_path / "gap.mkv"
    times = FrameTimes(Fraction(1, 1000), [0, 40, 80, 100_000_000, 100_000_040])
    write_video(path, _shades(5), 25.0, times=times)
    with pytest.raises(DecodeError, match=r"more than 36,000 s.*SAFA_LIMITS=seconds"):
        list(read_frames(path, fps=25.0))


def test_bounds_are_kept(phone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, amount in (("frames", 20), ("seconds", 1), ("pixels", 3000)):
        monkeypatch.setenv("SAFA_LIMITS", f"{name}={amount}")
        with pytest.raises(DecodeError, match=f"SAFA_LIMITS={name}"):
            list(read_frames(phone, fps=30.0))
    monkeypatch.setenv("SAFA_LIMITS", "decoder_bytes=3e7")
    with pytest.raises(DecodeError, match=r"phone\.mp4"):
        list(read_frames(phone))


def test_no_other_file_is_opened(phone: Path, tmp_path: Path) -> None:
    """Lists that name other files, under the name of a video."""
    for name, text in (
        ("a.mp4", f"ffconcat version 1.0\nfile '{phone}'\n"),
        ("b.mp4", f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{phone}\n#EXT-X-ENDLIST\n"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(DecodeError, match=name):
            probe(tmp_path / name)


def test_a_pipe_does_not_wait_for_ever(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(DecodeError, match="is no file"):
        probe(tmp_path / "pipe.mp4")
