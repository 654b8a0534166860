"""``safa animate`` and ``safa swap``: every flag does what it says."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from safa.checkpoint.native import load_model, save_model
from safa.cli import build_parser
from safa.commands.flags import UPSTREAM, translate_upstream_flags
from safa.data.video import probe, read_frames, write_video

Run = Callable[..., tuple[int, str, str]]


def _frames(path: Path) -> np.ndarray:
    return np.stack(list(read_frames(path)))


def _face(x: float, y: float, size: float) -> np.ndarray:
    """68 points whose box is ``size`` px wide and high, around (x, y)."""
    angle = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    return np.stack([x + size / 2 * np.cos(angle), y + size / 2 * np.sin(angle)], 1).astype(np.float32)


@pytest.fixture
def with_landmarks(photo: Path, video: Path) -> tuple[Path, Path]:
    """Photo and video with landmarks beside them; the fifth frame shows no face."""
    np.save(photo.with_suffix(".landmarks.npy"), _face(30, 22, 10)[None])
    points = np.stack([_face(30 + n, 24, 12) for n in range(7)])
    points[4] = np.nan
    np.save(video.with_suffix(".landmarks.npy"), points)
    return photo, video


def test_landmarks_beside_the_files_say_where_the_face_is(
    safa: Run, model: Path, with_landmarks: tuple[Path, Path], tmp_path: Path
) -> None:
    code, out, err = safa("animate", *with_landmarks, "-o", tmp_path / "a.mp4", "--checkpoint", model)
    assert code == 0
    assert "7 frames at 12.5 fps, 32 x 32 px (--size 256 enlarges them)" in out
    assert err == "note: driving.mp4: no face in 1 of 7 frames; the crop is interpolated there\n"
    assert (
        safa("animate", *with_landmarks, "-o", tmp_path / "b.mp4", "--checkpoint", model, "--no-crop")[2]
        == ""
    )


def test_paste_back_leaves_the_rest_of_the_photo(
    safa: Run, model: Path, with_landmarks: tuple[Path, Path], tmp_path: Path
) -> None:
    photo = with_landmarks[0]
    Image.new("RGB", (50, 40), (90, 160, 220)).save(photo)
    safa("animate", *with_landmarks, "-o", tmp_path / "a.mp4", "--checkpoint", model, "--paste-back")
    frames = _frames(tmp_path / "a.mp4").astype(int)
    assert frames.shape == (7, 40, 50, 3)
    assert np.abs(frames[:, :, :15] - (90, 160, 220)).mean() < 4
    assert np.abs(frames[:, 16:26, 25:35] - (90, 160, 220)).mean() > 8


def test_the_grid_is_a_second_video(
    safa: Run, model: Path, with_landmarks: tuple[Path, Path], tmp_path: Path
) -> None:
    code, out, _ = safa(
        *("animate", *with_landmarks, "-o", tmp_path / "a.mp4"),
        "--checkpoint",
        model,
        "--grid",
        tmp_path / "g.mp4",
    )
    assert code == 0
    assert f"wrote {tmp_path / 'g.mp4'}" in out
    assert len(_frames(tmp_path / "g.mp4")) == 7
    assert probe(tmp_path / "g.mp4").width > 1000


def test_sound_rate_and_mark_are_kept(
    safa: Run, model: Path, video: Path, photo: Path, tmp_path: Path
) -> None:
    ffmpeg, sounding = imageio_ffmpeg.get_ffmpeg_exe(), tmp_path / "sounding.mp4"
    command = [ffmpeg, "-loglevel", "error", "-i", str(video), "-f", "lavfi", "-i", "sine=440:d=0.5"]
    subprocess.run([*command, "-c:v", "copy", "-c:a", "aac", str(sounding)], check=True)
    arguments = ("--checkpoint", model, "--no-crop")
    safa("animate", photo, sounding, "-o", tmp_path / "a.mp4", *arguments)
    safa("animate", photo, sounding, "-o", tmp_path / "b.mp4", *arguments, "--no-sound", "--fps", 25)
    first, second = probe(tmp_path / "a.mp4"), probe(tmp_path / "b.mp4")
    assert (first.fps, first.has_sound) == (12.5, True)
    assert (second.fps, second.has_sound) == (25.0, False)
    assert b"synthetic: face animation by SAFA" in (tmp_path / "a.mp4").read_bytes()


@pytest.mark.parametrize("flags", [("--with-eye",), ("--precision", "bfloat16")])
def test_eyes_and_precision_change_the_result(
    safa: Run, model: Path, photo: Path, video: Path, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    def predictions(*more: str) -> np.ndarray:
        grid = tmp_path / "grid.mp4"
        arguments = ("-o", tmp_path / "a.mp4", "--grid", grid, "--checkpoint", model, "--no-crop", *more)
        assert safa("animate", photo, video, *arguments)[0] == 0
        return _frames(grid).astype(int)

    plain = predictions()
    assert (predictions() == plain).all()
    changed = predictions(*flags)
    assert changed.shape == plain.shape
    assert (changed != plain).any()


def test_no_more_frames_than_asked_for(
    safa: Run, model: Path, photo: Path, video: Path, tmp_path: Path
) -> None:
    arguments = ("-o", tmp_path / "a.mp4", "--checkpoint", model, "--no-crop", "--max-frames", 1)
    _, out, _ = safa("animate", photo, video, *arguments)
    assert "1 frame at 12.5 fps" in out
    assert len(_frames(tmp_path / "a.mp4")) == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--best-frame", "2"), "--relative"),
        (("--relative", "--best-frame", "99"), "no frame 99"),
        (("--fps", "-1"), "--fps"),
        (("--precision", "float16", "--device", "cpu"), "float16"),
        (("--batch-size", "0"), "--batch-size"),
    ],
)
def test_flags_that_make_no_sense_are_refused(
    flags: tuple[str, ...], words: str, safa: Run, model: Path, photo: Path, video: Path, tmp_path: Path
) -> None:
    result = tmp_path / "a.mp4"
    code, _, err = safa("animate", photo, video, "-o", result, "--checkpoint", model, "--no-crop", *flags)
    assert (code, err.count("\n")) == (2, 1)
    assert words in err
    assert not list(tmp_path.glob("*a.mp4"))


def test_a_photo_without_a_face_is_refused(
    safa: Run, model: Path, with_landmarks: tuple[Path, Path], tmp_path: Path
) -> None:
    np.save(with_landmarks[0].with_suffix(".landmarks.npy"), np.full((1, 68, 2), np.nan, np.float32))
    code, _, err = safa("animate", *with_landmarks, "-o", tmp_path / "a.mp4", "--checkpoint", model)
    assert code == 2
    assert "photo.png: no face found" in err
    assert "--no-crop" in err


def test_a_result_must_be_a_video(safa: Run, model: Path, photo: Path, video: Path, tmp_path: Path) -> None:
    for name in ("a.webm", "a"):
        code, _, err = safa("animate", photo, video, "-o", tmp_path / name, "--checkpoint", model)
        assert code == 2
        assert "unsupported format; use .mp4, .mov, .mkv, .gif, .png, .jpg or .jpeg" in err


def test_a_result_may_be_a_gif_or_a_picture(
    safa: Run, model: Path, photo: Path, video: Path, tmp_path: Path
) -> None:
    for name, frames in (("a.gif", 7), ("a.png", 1), ("a.jpg", 1)):
        words = ("animate", photo, video, "-o", tmp_path / name, "--checkpoint", model, "--no-crop")
        done = safa(*words, "--size", 48, "--side-by-side")  # or all frames would be alike
        assert done[0] == 0, done
        assert f"{frames} frame" in done[1]
        with Image.open(tmp_path / name) as result:
            assert (result.size, getattr(result, "n_frames", 1)) == ((3 * 48 + 8, 48), frames)
            comment = result.info.get("comment", result.info.get("Comment"))
            assert "synthetic" in (comment.decode() if isinstance(comment, bytes) else comment)
    with Image.open(tmp_path / "a.gif") as moving:
        assert moving.info["duration"] == 80


def test_the_model_is_found(
    safa: Run, model: Path, photo: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a demo's folder, below runs/ where it is the only one, or in the box; a line says which."""
    monkeypatch.chdir(tmp_path)
    words = ("animate", photo, video, "-o", tmp_path / "a.png", "--no-crop")
    code, out, err = safa(*words)
    assert code == 0, err
    assert "the model is the small one that comes with safa; it makes 64 x 64 px; it learned from" in out
    demo = tmp_path / "runs" / "demo"
    network, info = load_model(model)
    info = dataclasses.replace(info, step=50, trained_on="synthetic")
    save_model(demo / "train" / "model", network, info)
    save_model(demo / "pretrain" / "model", network.tdmm, dataclasses.replace(info, stage="head"))
    for more in ((), ("--checkpoint", "runs/demo")):
        code, out, err = safa(*words, *more)
        assert code == 0, err
        assert "the model is runs/demo/train, step 50; it makes 32 x 32 px; it learned from synthetic" in out
    save_model(tmp_path / "runs" / "other" / "model", network, info)
    assert "runs/: no model was named, and there are several: runs/other" in safa(*words)[2]
    save_model(demo / "again" / "model", network, info)
    assert "runs/demo: holds several models: " in safa(*words, "--checkpoint", "runs/demo")[2]


def test_pasting_back_says_how_much_was_enlarged(
    safa: Run, model: Path, with_landmarks: tuple[Path, Path], tmp_path: Path
) -> None:
    photo, video = with_landmarks
    big = tmp_path / "big.png"
    Image.open(photo).resize((500, 400)).save(big)
    np.save(tmp_path / "big.landmarks.npy", np.load(photo.with_suffix(".landmarks.npy")) * 10)
    words = ("animate", big, video, "-o", tmp_path / "a.png", "--checkpoint", model, "--paste-back")
    code, _, err = safa(*words)
    assert code == 0
    assert "and the model makes 32 px, so it is enlarged" in err
    assert "exclude each other" in safa(*words, "--size", 64)[2]


def test_swap_leaves_frames_without_a_face_alone(
    safa: Run, model: Path, with_landmarks: tuple[Path, Path], tmp_path: Path
) -> None:
    code, out, err = safa("swap", *with_landmarks, "-o", tmp_path / "a.mp4", "--checkpoint", model)
    assert code == 0
    assert "7 frames at 12.5 fps, 64 x 48 px, 1 of them unchanged (no face)" in out
    assert "no --parser" in err
    driving, result = _frames(with_landmarks[1]).astype(int), _frames(tmp_path / "a.mp4").astype(int)
    assert result.shape == driving.shape
    change = np.abs(result - driving)[:, 18:30, 28:40].mean((1, 2, 3))
    assert change[4] < 0.5 * np.delete(change, 4).min()  # what is left is H.264


def test_swap_says_what_is_missing(safa: Run, model: Path, photo: Path, video: Path, tmp_path: Path) -> None:
    arguments = ("swap", photo, video, "-o", tmp_path / "a.mp4", "--checkpoint", model)
    code, _, err = safa(*arguments, "--detector", "none")
    assert code == 2
    assert "photo.png: no face found; tried: landmarks beside it (photo.landmarks.npy is not there)" in err
    assert "no face detector is here. `safa doctor` says what a face detector needs. Use --no-crop" in err
    assert "--classes needs --parser" in safa(*arguments, "--classes", "skin")[2]
    (tmp_path / "p.pth").write_text("x")
    assert (
        "no class 'beard'" in safa(*arguments, "--parser", tmp_path / "p.pth", "--classes", "skin,beard")[2]
    )


def test_upstream_command_lines_work() -> None:
    words = (
        "animate --config config/end2end.yaml --checkpoint C --source_image_pth S --driving_video_pth D "
        "--result_video_pth R.mp4 --relative --adapt_scale --find_best_frame --with_eye --cpu"
    )
    parsed = build_parser().parse_args(translate_upstream_flags(words.split()))
    assert (parsed.source, parsed.driving, parsed.output, parsed.device) == ("S", "D", Path("R.mp4"), "cpu")
    assert parsed.relative
    assert parsed.adapt_scale
    assert parsed.find_best_frame
    assert parsed.with_eye
    equals = build_parser().parse_args(
        translate_upstream_flags(
            ["swap", "--driving_video=D", "--source_image=S", "-o", "r.mp4", "--checkpoint=C"]
        )
    )
    assert (equals.source, equals.driving) == ("S", "D")
    assert translate_upstream_flags(["doctor", "--cpu"]) == ["doctor", "--cpu"]
    assert all(ours.startswith("--") for ours in UPSTREAM.values())


def test_a_folder_drives(safa: Run, model: Path, photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.full((40, 40, 3), 80 * number, np.uint8)).save(folder / f"{number}.png")
    code, out, _ = safa(
        "animate", photo, folder, "-o", tmp_path / "a.mp4", "--checkpoint", model, "--no-crop"
    )
    assert code == 0
    assert "3 frames at 25 fps" in out


def test_a_cut_video_gives_its_good_frames_and_a_failed_one_leaves_no_file(
    safa: Run, model: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tmp_path / "whole.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), np.uint8)
    write_video(whole, iter(noise), 25.0, crf=5)
    truncated = tmp_path / "truncated.mp4"
    truncated.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    result = ("-o", tmp_path / "a.mp4", "--grid", tmp_path / "g.mp4", "--checkpoint", model, "--no-crop")
    code, _, err = safa("animate", photo, truncated, *result)
    assert code == 0
    assert "lost at" in err
    assert 15 <= len(list(read_frames(tmp_path / "a.mp4"))) < 25
    (tmp_path / "a.mp4").unlink()
    (tmp_path / "g.mp4").unlink()
    monkeypatch.setenv("SAFA_LIMITS", "frames=30")
    code, _, err = safa("animate", photo, whole, *result)
    assert code == 2
    assert "whole.mp4" in err
    assert not (tmp_path / "a.mp4").exists()
    assert not (tmp_path / "g.mp4").exists()
