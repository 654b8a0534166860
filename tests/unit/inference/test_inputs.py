"""Frame sources of every kind: in order, in time, upright, in their colours; and what is written of them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from safa.data.video import probe, read_frames, write_video
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
    frames = np.array([frame.mean() for frame in read_frames(path)])
    flash = int((frames > 127).argmax()) / probe(path).fps
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
    ).save(out)
    return out


def test_sound_and_video_stay_together(clapper: Path, tmp_path: Path) -> None:
    for path in (clapper, _copied(clapper, tmp_path / "out.mp4")):
        flash, beep = _flash_and_beep(path)
        assert flash == FLASH / 25
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


def test_inputs_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        open_frame_source(tmp_path / "gone.mp4")
    with pytest.raises(UserError, match="camera 97"):
        open_frame_source("97")
