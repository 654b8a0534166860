"""Frame sources of every kind: in order, in time, upright, in their colours; and what is written of them."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from safa.data.video import DecodeError, FrameTimes, VideoReader, probe, read_frames, write_video
from safa.errors import UserError
from safa.inference.inputs import open_frame_source
from safa.inference.video_output import RenderedFrame, RenderedVideo

FLASH, RATE = 12, 48_000  # the frame that is white and has the beep; samples per second


def _ffmpeg(*arguments: object) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def _numbered(count: int, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    return [np.full((*size, 3), 5 * number, np.uint8) for number in range(count)]


@pytest.fixture
def clapper(tmp_path: Path) -> Path:
    """A video at 25 fps: one white frame, and a beep as long as that frame, at the same time."""
    frames = [np.full((48, 64, 3), 255 if n == FLASH else 0, np.uint8) for n in range(30)]
    write_video(tmp_path / "silent.mp4", frames, 25.0)
    loud = f"volume='between(t,{FLASH / 25},{(FLASH + 1) / 25})':eval=frame"
    beep = f"sine=1000:d=1.2:r={RATE}:samples_per_frame=64,{loud}"
    path = tmp_path / "clapper.mp4"
    _ffmpeg("-i", tmp_path / "silent.mp4", "-f", "lavfi", "-i", beep, "-c:v", "copy", "-c:a", "aac", path)
    return path


def _flash_and_beep(path: Path) -> tuple[float, float]:
    """Seconds at which the white frame and the beep begin."""
    with VideoReader(path) as reader:
        bright = [frame.ticks for frame in reader.frames() if frame.pixels.mean() > 127]
        flash = float(bright[0] * reader.time_base)
    sound = np.frombuffer(_ffmpeg("-i", path, "-f", "s16le", "-ac", 1, "-ar", RATE, "-"), np.int16)
    loud = np.abs(sound.astype(int)) > 0.3 * np.abs(sound.astype(int)).max()
    return flash, float(loud.argmax()) / RATE


def _copied(path: Path, out: Path) -> Path:
    frame_source = open_frame_source(path)
    RenderedVideo(
        frame_source.fps,
        frame_source.count,
        (),
        frame_source.file if frame_source.has_sound else None,
        lambda: (RenderedFrame(frame, frame, True, None) for frame in frame_source.frames()),
        frame_source.playback,
    ).save(out)
    return out


def test_sound_and_video_stay_together(clapper: Path, tmp_path: Path) -> None:
    for path in (clapper, _copied(clapper, tmp_path / "out.mp4")):
        flash, beep = _flash_and_beep(path)
        assert flash == pytest.approx(FLASH / 25)
        assert abs(beep - flash) < 0.5 / 25
    assert probe(tmp_path / "out.mp4").has_sound


def test_a_video_that_starts_after_its_sound_still_does(clapper: Path, tmp_path: Path) -> None:
    late = tmp_path / "late.mkv"
    _ffmpeg("-itsoffset", 0.2, "-i", clapper, "-i", clapper, "-map", "0:v", "-map", "1:a", "-c", "copy", late)
    flash, beep = _flash_and_beep(_copied(late, tmp_path / "out.mp4"))
    assert abs(flash - beep - 0.2) < 0.5 / 25


def test_sound_of_another_length_does_not_change_the_video(clapper: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.mp4"
    _ffmpeg("-i", clapper, "-f", "lavfi", "-i", "sine=500:d=0.3", "-map", "0:v", "-map", "1:a", short)
    assert len(list(read_frames(_copied(short, tmp_path / "out.mp4")))) == 30
    long = tmp_path / "long.mp4"
    _ffmpeg("-i", clapper, "-f", "lavfi", "-i", "sine=500:d=3", "-map", "0:v", "-map", "1:a", long)
    assert len(list(read_frames(_copied(long, tmp_path / "out2.mp4")))) == 30
    assert probe(tmp_path / "out2.mp4").duration < 1.3


@pytest.mark.parametrize("tags", [("bt709", "tv"), ("smpte170m", "tv"), ("bt709", "pc")])
def test_colours_come_through_whatever_the_file_says(tags: tuple[str, str], tmp_path: Path) -> None:
    """A chart in another matrix and range, decoded, written, decoded."""
    matrix, limits = tags
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [128, 128, 128]])
    chart = np.repeat(colours.astype(np.uint8), 32, axis=0)[None].repeat(48, 0)
    Image.fromarray(chart).save(tmp_path / "chart.png")
    path = tmp_path / "chart.mp4"
    _ffmpeg(
        *("-loop", 1, "-i", tmp_path / "chart.png", "-frames:v", 3, "-c:v", "libx264", "-crf", 1),
        *("-vf", f"scale=out_color_matrix={matrix}:out_range={limits}:flags=accurate_rnd+full_chroma_int"),
        *("-pix_fmt", "yuv420p", "-colorspace", matrix, "-color_range", limits, path),
    )
    back = next(read_frames(_copied(path, tmp_path / "out.mp4")))
    for number, colour in enumerate(colours):
        middle = back[12:36, number * 32 + 10 : number * 32 + 22].astype(int)
        assert np.abs(middle - colour).max() <= 6, (number, middle.mean((0, 1)))


def test_a_video_of_a_phone_is_upright(tmp_path: Path) -> None:
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:, :32] = 255
    write_video(tmp_path / "lying.mp4", [frame] * 3, 25.0)
    turned = tmp_path / "turned.mp4"
    _ffmpeg("-display_rotation", 90, "-i", tmp_path / "lying.mp4", "-c", "copy", turned)
    shown = next(open_frame_source(turned).frames())
    assert shown.shape == (64, 48, 3)
    assert shown[48:].mean() > 250  # turned counter-clockwise by 90 degrees, left is below
    assert shown[:16].mean() < 5


def test_folders_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        Image.fromarray(np.full((20, 20, 3), number, np.uint8)).save(tmp_path / f"f{number}.png")
    (tmp_path / "notes.txt").write_text("no image")
    frame_source = open_frame_source(tmp_path)
    assert [int(frame[0, 0, 0]) for frame in frame_source.frames()] == [1, 2, 10]
    assert (frame_source.fps, frame_source.count, frame_source.has_sound) == (25.0, 3, False)
    with pytest.raises(UserError, match="no images"):
        open_frame_source(tmp_path / "..")


def test_a_gif_moves(tmp_path: Path) -> None:
    images = [Image.fromarray(frame) for frame in _numbered(5)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=100)
    frame_source = open_frame_source(tmp_path / "a.gif")
    assert frame_source.fps == pytest.approx(10)
    assert [int(frame[0, 0, 0]) for frame in frame_source.frames()] == pytest.approx(
        [0, 5, 10, 15, 20], abs=2
    )


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".gif"])
def test_the_result_keeps_the_times_of_the_frames(suffix: str, tmp_path: Path) -> None:
    """Ten frames a second, then a pause, then twenty: none is repeated, none left out, in no format."""
    ticks = [0, 100, 200, 1000, 1050, 1100]
    write_video(tmp_path / "v.mkv", _numbered(6), 10.0, crf=1, times=FrameTimes(Fraction(1, 1000), ticks))
    out = _copied(tmp_path / "v.mkv", tmp_path / f"out{suffix}")
    with VideoReader(out) as reader:
        frames = list(reader.frames())
        assert [float(frame.ticks * reader.time_base) for frame in frames] == pytest.approx(
            [0.001 * tick for tick in ticks], abs=0.002
        )
    assert [round(frame.pixels.mean() / 5) for frame in frames] == list(range(6))
    limited = open_frame_source(tmp_path / "v.mkv").limited(None, 1.02)
    assert len(list(limited.frames())) == 4
    at_ten = open_frame_source(tmp_path / "v.mkv", fps=10.0)
    assert [round(frame.mean() / 5) for frame in at_ten.frames()][:11] == [0, 1, *[2] * 8, 3]


def test_damage_costs_frames_and_is_reported(tmp_path: Path) -> None:
    """A stream that starts between two key frames: what comes before the second one is lost."""
    frames = [np.full((64, 64, 3), 4 * number, np.uint8) for number in range(60)]
    write_video(tmp_path / "whole.mp4", frames, 25.0)
    stream = tmp_path / "v.ts"
    _ffmpeg("-i", tmp_path / "whole.mp4", "-c:v", "libx264", "-g", 20, "-bf", 0, "-f", "mpegts", stream)
    with VideoReader(stream) as reader:
        assert len(list(reader.frames())) == 60
    data = stream.read_bytes()
    starts = [at for at in range(0, len(data), 188) if data[at + 1 : at + 3] == b"\x41\x00"]  # of frames
    cut = tmp_path / "cut.ts"
    cut.write_bytes(data[:376] + data[starts[5] :])
    frame_source = open_frame_source(cut)
    saved = RenderedVideo(
        frame_source.fps,
        frame_source.count,
        (),
        None,
        lambda: (RenderedFrame(frame, frame, True, None) for frame in frame_source.frames()),
        frame_source.playback,
    ).save(tmp_path / "out.mp4")
    assert saved.n_frames == 40
    assert "15 frames lost at 0.0 to 0.6 s" in saved.notes[0]
    with pytest.raises(DecodeError, match=r"cut\.ts"):
        list(read_frames(cut))


def test_inputs_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such video"):
        open_frame_source(tmp_path / "gone.mp4")
    with pytest.raises(UserError, match="camera 97"):
        open_frame_source(Path("97"))
