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

from safa.data.crop import Box
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
    write_video(path, _shades(len(PHONE)), 30.0, crf=1, times=FrameTimes(Fraction(1, 30000), ticks))
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


@pytest.mark.parametrize(("stored", "aspect"), [((72, 128), "16/9"), ((128, 96), "3/4")])
def test_pixels_become_square(stored: tuple[int, int], aspect: str, tmp_path: Path) -> None:
    """A square picture that is stored narrow or flat comes out square, whole and in a crop."""
    _ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=s=128x128:d=0.2:r=10", "-vf"),
        *(f"scale={stored[0]}:{stored[1]},setsar={aspect}", tmp_path / "v.mp4"),
    )
    with VideoReader(tmp_path / "v.mp4") as reader:
        assert (reader.info.width, reader.info.height) == (128, 128)
        whole = next(reader.frames()).pixels
        part = next(reader.frames(box=Box(64, 32, 128, 96))).pixels
    assert whole.shape == (128, 128, 3)
    assert part.shape == (64, 64, 3)
    assert np.abs(part.astype(int) - whole[32:96, 64:]).mean() < 1.5  # chroma differs at the crop's edge


@pytest.mark.parametrize("turn", [(), (90,), (180,), (270,), (0, "-display_hflip"), (90, "-display_vflip")])
def test_pictures_are_upright(turn: tuple[object, ...], tmp_path: Path) -> None:
    """As ffmpeg itself turns and mirrors them."""
    corner = np.zeros((48, 64, 3), np.uint8)
    corner[:24, :32], corner[:24, 32:] = (250, 250, 250), (120, 120, 120)
    write_video(tmp_path / "plain.mp4", [corner] * 2, 25.0, crf=1)
    display = ("-display_rotation", *turn) if turn else ()
    _ffmpeg(*display, "-i", tmp_path / "plain.mp4", "-c", "copy", tmp_path / "turned.mp4")
    _ffmpeg("-i", tmp_path / "turned.mp4", "-frames:v", 1, tmp_path / "right.png")
    right = np.asarray(Image.open(tmp_path / "right.png").convert("RGB")).astype(int)
    np.testing.assert_allclose(next(read_frames(tmp_path / "turned.mp4")), right, atol=3)


@pytest.mark.parametrize("transfer", ["arib-std-b67", "smpte2084"])
def test_hdr_looks_as_it_did(transfer: str, tmp_path: Path) -> None:
    """Colours of BT.709 go to HLG or PQ in BT.2020 by ffmpeg's zscale, 10 bits, HEVC, and come back."""
    colours = np.array([[200, 150, 130], [90, 60, 50], [128, 128, 128], [30, 90, 160], [235, 235, 235]])
    patches = colours.astype(np.uint8).repeat(32, 0)[None].repeat(64, 0)  # (5, 3) -> (64, 160, 3)
    write_video(tmp_path / "sdr.mp4", [patches] * 3, 25.0, crf=0)
    sdr = next(read_frames(tmp_path / "sdr.mp4"))
    graph = (
        "zscale=tin=bt709:min=bt709:pin=bt709:rin=tv:t=linear:npl=203,format=gbrpf32le,"
        f"zscale=p=bt2020:t={transfer}:m=bt2020nc:r=tv:npl=203,format=yuv420p10le"
    )
    _ffmpeg(
        *("-i", tmp_path / "sdr.mp4", "-vf", graph, "-c:v", "libx265", "-crf", 4),
        *("-x265-params", "log-level=none", "-color_primaries", "bt2020", "-color_trc", transfer),
        *("-colorspace", "bt2020nc", tmp_path / "hdr.mov"),
    )
    hdr = next(read_frames(tmp_path / "hdr.mov"))
    assert np.abs(hdr[16:48, 16::32].astype(int) - sdr[16:48, 16::32]).max() <= 2
    small = next(read_frames(tmp_path / "hdr.mov", size=(32, 80)))
    assert np.abs(small[16, 8::16].astype(int) - sdr[32, 16::32]).max() <= 2


def test_a_change_of_size_on_the_way_is_scaled(tmp_path: Path) -> None:
    for name, size in (("a", "64x48"), ("b", "128x96")):
        _ffmpeg("-f", "lavfi", "-i", f"testsrc2=s={size}:d=0.4:r=25", tmp_path / f"{name}.ts")
    joined = tmp_path / "joined.ts"
    joined.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    with VideoReader(joined, tolerant=True) as reader:
        frames = list(reader.frames())
        times = [float(frame.ticks * reader.time_base) for frame in frames]
    assert {frame.pixels.shape for frame in frames} == {(48, 64, 3)}
    assert len(frames) >= 15
    assert all(np.diff(times) > 0)


def test_pictures_that_start_after_the_sound_keep_their_rate(tmp_path: Path) -> None:
    picture, sound = "testsrc2=s=64x48:d=1:r=25", "sine=d=2"
    _ffmpeg(
        *("-f", "lavfi", "-i", picture, "-itsoffset", "-0.5", "-f", "lavfi", "-i", sound),
        *("-map", "0:v", "-map", "1:a", "-c:v", "libx264", "-c:a", "aac", tmp_path / "late.mkv"),
    )
    info = probe(tmp_path / "late.mkv", count=True)
    assert (info.fps, info.frames, info.has_sound) == (25, 25, True)
    assert info.duration == pytest.approx(1.5, abs=0.05)


@pytest.mark.parametrize("codec", ["libvpx-vp9", "prores_ks", "mjpeg", "mpeg2video"])
def test_codecs_of_cameras_and_archives(codec: str, tmp_path: Path) -> None:
    file = tmp_path / "a.mkv"
    _ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:d=0.4:r=25", "-c:v", codec, file)
    assert [frame.shape for frame in read_frames(file)] == [(48, 64, 3)] * 10


def test_a_cover_is_not_the_video(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "cover.jpg")
    _ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x48:d=0.4:r=25", "-c:v", "libx264", tmp_path / "a.mp4")
    _ffmpeg(
        *("-i", tmp_path / "a.mp4", "-i", tmp_path / "cover.jpg", "-map", "1", "-map", "0", "-c", "copy"),
        *("-disposition:v:0", "attached_pic", tmp_path / "b.mp4"),
    )
    assert [frame.shape for frame in read_frames(tmp_path / "b.mp4")] == [(48, 64, 3)] * 10


def test_large_frames_fit_the_limits(tmp_path: Path) -> None:
    """8K, as cameras make it."""
    black = "color=black:s=7680x4320:d=0.1:r=20"
    _ffmpeg("-f", "lavfi", "-i", black, "-c:v", "libx264", "-preset", "ultrafast", tmp_path / "8k.mp4")
    frames = [frame.shape for frame in read_frames(tmp_path / "8k.mp4", size=(432, 768))]
    assert frames == [(432, 768, 3)] * 2


def test_ten_hours_fit_the_limits(tmp_path: Path) -> None:
    path = tmp_path / "long.mp4"
    times = FrameTimes(Fraction(1, 1000), [1_000_000 * n for n in range(37)])
    write_video(path, _shades(37), 1.0, times=times)
    assert probe(path, count=True).frames == 37
    assert len(list(read_frames(path, span=Span(35_990, 35_999, 1.0)))) == 9


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
    with pytest.raises(DecodeError, match=r"more than 40,000 s.*SAFA_LIMITS=seconds"):
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


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi"])
def test_a_high_speed_camera_keeps_its_rate(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"fast{suffix}"
    _ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x48:rate=1000:duration=0.2", path)
    with VideoReader(path, count=True) as reader:
        assert (round(reader.info.fps), reader.info.frames) == (1000, 200)
        assert len(list(reader.frames())) == 200


def test_empty_packets_show_the_frame_before_again(tmp_path: Path) -> None:
    """Theora writes a frame that is like the one before as a packet of no bytes."""
    path = tmp_path / "still.ogv"
    try:
        _ffmpeg("-f", "lavfi", "-i", "smptebars=size=64x48:rate=10:duration=1", "-c:v", "libtheora", path)
    except subprocess.CalledProcessError:
        pytest.skip("this ffmpeg writes no Theora")
    numbers, times, rows = _read(path)
    assert len(set(numbers)) == 1
    assert times == pytest.approx([n / 10 for n in range(10)], abs=0.002)
    assert rows == list(range(10))
