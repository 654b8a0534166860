"""Wires that no option or key leads to, and every option of the methods of ``FaceAnimator``."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

import safa
from safa.errors import UserError
from safa.head.raster import rasterize
from safa.inference import face_animator, face_tracking
from safa.inference.face_animator import FaceAnimator
from safa.inference.face_crop import crop_face, smooth_track
from safa.inference.inputs import FrameSource
from safa.inference.swap_mask import FaceMask, HeadOutline
from safa.models.face_parser import FaceParser
from tests.contract.wires.world import BLUE, RED, World


class Finder:
    """Finds a face where a frame's first pixel says, in tens of px."""

    name = "finder"

    def crop_boxes(self, frames: Iterable[Any], choice: Any = None) -> Iterator[Any]:
        for frame in frames:
            yield np.array([float(frame[0, 0, 0]), 20.0, 30.0])

    def faces(self, frame: Any) -> list[Any]:
        return list(self.crop_boxes([frame]))

    def landmarks(self, faces: Any) -> None:
        return None


def _frames(world: World) -> list[Any]:
    frames = [world.picture(RED if n % 2 else BLUE, seed=n) for n in range(6)]
    for number, frame in enumerate(frames):
        frame[0, 0, 0] = 10 + 8 * number
    return frames


@pytest.fixture
def animator(world: World) -> FaceAnimator:
    return FaceAnimator(world.model, torch.device("cpu"), batch_size=4)


def test_reconstruct_is_driven_by_every_frame(world: World, animator: FaceAnimator) -> None:
    """The first frame gives the face, and each frame its own motion."""
    frames = _frames(world)
    rendered = list(animator.reconstruct(frames, crop=False).rendered_frames)
    shown = [frame.driving for frame in rendered]
    assert len(shown) == 6
    for one, other in pairwise(shown):
        assert (one != other).any()
    face = animator.prepare(shown[0])
    for number, frame in enumerate(rendered):
        with torch.inference_mode():
            state = world.model.analyse(animator.runner.to_batch([frame.driving]))
            wanted = world.model.reenact(face, state).prediction[0].permute(1, 2, 0)
        got = torch.from_numpy(frame.image.astype(np.float32)) / 255
        assert float((got - wanted).abs().max()) < 0.01, number
    assert any((rendered[0].image != frame.image).any() for frame in rendered[1:])


def test_the_crop_of_a_camera_is_smoothed() -> None:
    """A tenth of the way to where the face is now, frame by frame: the future is not known."""
    frames = [np.full((40, 60, 3), value, np.uint8) for value in (10, 50, 50)]
    camera = FrameSource("camera", 25.0, None, False, None, False, lambda: iter(frames))
    tracked = face_tracking.track_video(camera, face_tracking.FaceSearch(Finder()), crop=True)
    assert tracked.track is None
    assert [float(item.crop_box[0]) for item in tracked.open()] == pytest.approx([10.0, 14.0, 17.6])


def test_the_crop_of_a_video_is_smoothed() -> None:
    """Over about a second, whatever the rate."""
    there = np.array([[float(x), 20.0, 30.0] for x in (10, 14) * 100])
    steady = smooth_track(there, 25.0).crop_boxes[80:120, 0]
    assert np.ptp(steady) < 0.01
    assert steady.mean() == pytest.approx(12, abs=0.1)
    less = smooth_track(there, 0.5).crop_boxes[80:120, 0]
    assert np.ptp(less) > 100 * np.ptp(steady)


def test_load_passes_everything_on(world: World, tmp_path: Path) -> None:
    animator = safa.load(
        *(world.checkpoint,),
        **{"device": "cpu", "precision": "bfloat16", "batch_size": 3, "rasterizer": "native"},
        **{"assets": tmp_path, "detector": "none"},
    )
    assert animator.detector == ""
    assert (animator.device.type, animator.batch_size) == ("cpu", 3)
    assert animator.precision == "bfloat16"
    assert animator.tdmm._rasterizer is rasterize
    assert set(inspect.signature(safa.load).parameters) == {
        *("checkpoint", "device", "precision", "rasterizer", "batch_size", "assets", "detector")
    }


@pytest.mark.parametrize("crop", [True, False])
def test_reconstruct_finds_the_face_unless_asked_not_to(world: World, crop: bool) -> None:
    boxes: list[Any] = []

    def cropped(frame: Any, box: Any, size: int) -> Any:
        boxes.append(box)
        return crop_face(frame, box, size)

    animator = FaceAnimator(world.model, torch.device("cpu"), face_tracker=Finder())
    with patch.object(face_animator, "crop_face", cropped):
        list(animator.reconstruct(_frames(world), crop=crop).rendered_frames)
    sides = {float(box[2]) for box in boxes}
    assert sides == ({30.0} if crop else {40.0})


def test_the_options_of_a_mask_arrive(world: World, animator: FaceAnimator, tmp_path: Path) -> None:
    torch.save(FaceParser().state_dict(), tmp_path / "parser.pth")
    outline = animator.swap_mask(hard=True)
    assert isinstance(outline, HeadOutline)
    assert outline.hard
    mask = animator.swap_mask(tmp_path / "parser.pth", classes=("skin", "nose"))
    assert isinstance(mask, FaceMask)
    assert (mask.classes, mask.hard) == ((1, 10), False)
    assert animator.swap_mask(str(tmp_path / "parser.pth"), "lips").classes == (12, 13)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="no class 'noze'"):
        animator.swap_mask(tmp_path / "parser.pth", classes="noze")
    with pytest.raises(UserError, match="need weights of a face parser"):
        animator.swap_mask(classes="nose")


def test_a_video_can_be_gone_through_again(world: World, animator: FaceAnimator, tmp_path: Path) -> None:
    video = animator.animate(str(world.red), _frames(world), relative=True, adapt_scale=True, crop=False)
    first, again = list(video), list(video)
    assert len(first) == 6
    assert all((one == other).all() for one, other in zip(first, again, strict=True))
    video.save(str(tmp_path / "out.mp4"))
    once = animator.animate(world.red, iter(_frames(world)), crop=False)
    assert len(list(once)) == 6
    with pytest.raises(UserError, match="generator"):
        list(once)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"adapt_scale": True}, r"^adapt_scale=True needs relative=True. Add relative=True.$"),
        ({"best_frame": "find"}, 'best_frame="find" needs relative=True'),
        ({"best_frame": 0}, "best_frame=0 needs relative=True"),
        ({"best_frame": "first", "relative": True}, "best_frame: there is no way 'first' to choose one"),
        ({"best_frame": -1, "relative": True}, "best_frame: must be 0 or more, not -1"),
        ({"fps": 0}, "fps: 0 is no frame rate"),
        ({"fps": float("nan")}, "fps: nan"),
        ({"fps": "25"}, "fps: '25'"),
        ({"max_frames": 0}, "max_frames: must be 1 or more, not 0"),
        ({"max_frames": 1.5}, "max_frames: must be a whole number, not 1.5"),
        ({"best_frame": 9, "relative": True}, "has no frame 9, only 6 frames. .*so the last one is 5"),
        ({"relative": "no"}, "^relative: must be True or False, not 'no'"),
        ({"relative": None}, "^relative: must be True or False"),
        ({"adapt_scale": 1, "relative": True}, "^adapt_scale: must be"),
        ({"with_eyes": "x"}, "^with_eyes: must be"),
        ({"crop": "no"}, "^crop: must be"),
        ({"paste_back": 0}, "^paste_back: must be"),
        ({"side_by_side": []}, "^side_by_side: must be"),
        ({"face": [1, 2], "crop": True}, r"^face: \[1, 2\] names no face"),
        ({"face": (float("nan"), 1), "crop": True}, "is no place"),
    ],
)
def test_wrong_options_are_refused_in_words(
    world: World, animator: FaceAnimator, options: dict[str, Any], line: str
) -> None:
    with pytest.raises(UserError, match=line):
        animator.animate(world.red, _frames(world), **{"crop": False} | options)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"checkpoint": 5}, "checkpoint: is of type int"),
        ({"checkpoint": b"x"}, "not bytes"),
        ({"device": "gpu"}, "^device: "),
        ({"device": None}, "^device: "),
        ({"precision": "half"}, "^precision: "),
        ({"rasterizer": "opengl"}, "^rasterizer: there is no 'opengl'"),
        ({"rasterizer": "pytorch3d"}, "^rasterizer: PyTorch3D is not installed"),
        ({"batch_size": 0}, "^batch_size: must be 1 or more, not 0"),
        ({"batch_size": "8"}, "^batch_size: must be a whole number, not '8'"),
        ({"assets": 5}, "^assets: is of type int"),
        ({"assets": "/nowhere"}, "^/nowhere: no such folder"),
        ({"assets": __file__}, "no such folder"),
        ({"checkpoint": ""}, "^checkpoint: is empty"),
        ({"checkpoint": "https://host/a.pth"}, "must be a path, or begin with s3://"),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_words(world: World, wrong: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line):
        safa.load(**{"checkpoint": world.checkpoint, **wrong})


def test_wrong_outputs_and_masks_are_refused_in_words(world: World, animator: FaceAnimator) -> None:
    video = animator.animate(world.red, _frames(world), crop=False)
    with pytest.raises(UserError, match="the output: is of type int"):
        video.save(5)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the output: is empty"):
        video.save("")
    with pytest.raises(UserError, match=r"the output: only a path works here, not the address s3://b/a\.mp4"):
        video.save("s3://b/a.mp4")
    with pytest.raises(UserError, match="progress: is of type int, which cannot be called"):
        video.save("out.mp4", progress=5)  # type: ignore[arg-type]
    for wrong, line in (
        ({"weights": 5}, "weights: is of type int"),
        ({"hard": "no"}, "hard: must be True or"),
    ):
        with pytest.raises(UserError, match=line):
            animator.swap_mask(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="classes: are of type int"):
        animator.swap_mask("x.pth", classes=5)  # type: ignore[arg-type]
    for option in ("source_shape", "crop", "side_by_side"):
        with pytest.raises(UserError, match=f"{option}: must be True or False"):
            animator.swap(world.red, _frames(world), **{option: "no"})  # type: ignore[arg-type]
    for call in (animator.reconstruct, animator.mesh, animator.meshes):
        with pytest.raises(UserError, match="crop: must be True or False"):
            call(world.red, crop="no")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="unsupported format"):
        video.save("out.txt")
    with pytest.raises(UserError, match="the output: is of type NoneType"):
        animator.mesh(world.red, crop=False).save(None)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="mask: is of type str, which is no mask"):
        animator.swap(world.red, _frames(world), mask="nose")  # type: ignore[arg-type]


def test_names_and_representations(world: World, animator: FaceAnimator) -> None:
    assert {name for name in dir(safa) if not name.startswith("__")} == {"UserError", "load"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", safa.__version__)
    assert repr(animator) == "FaceAnimator(32 px, cpu, float32, no face detector)"
    video = animator.animate(world.red, _frames(world), crop=False)
    assert repr(video) == "RenderedVideo(6 frames at 25 fps)"
    assert repr(next(video.rendered_frames)) == "RenderedFrame(32 x 32 px)"
    assert repr(animator.swap_mask(hard=True)) == "HeadOutline(hard=True)"
    head = animator.mesh(world.red, crop=False)
    assert re.fullmatch(r"Head\(98 vertices, face of a photo of 50 x 40 px\)", repr(head))
    assert re.fullmatch(r"Mesh\(98 vertices, \d+ faces, texture \d+ x \d+ px\)", repr(head.mesh))


def test_numbers_of_numpy_are_numbers(world: World, animator: FaceAnimator) -> None:
    options: dict[str, Any] = {"best_frame": np.int64(1), "max_frames": np.int32(3), "size": np.int16(48)}
    video = animator.animate(
        *(world.red, _frames(world)),
        **options,
        **{"relative": np.True_, "crop": np.False_, "fps": np.float32(10), "max_seconds": np.float64(0.2)},
    )
    assert (video.fps, [frame.shape for frame in video]) == (10, [(48, 48, 3)] * 2)
    with pytest.raises(UserError, match="camera 97"):
        animator.animate(world.red, np.int64(97))  # type: ignore[arg-type]


def test_the_home_folder_is_known(
    world: World, animator: FaceAnimator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copy(world.red, tmp_path / "me.png")
    shutil.copytree(world.checkpoint, tmp_path / "model")
    animator.animate("~/me.png", "~/me.png", crop=False).save("~/out.png", grid="~/grid.mp4")
    animator.mesh("~/me.png", crop=False).save("~/head")
    assert {"out.png", "grid.mp4", "head"} <= {path.name for path in tmp_path.iterdir()}
    assert safa.load("~/model", detector="none").size == animator.size
    with pytest.raises(UserError, match=r"me\.png: is an input, too"):
        animator.animate("~/me.png", "~/me.png", crop=False).save(tmp_path / "me.png")
    with pytest.raises(UserError, match=rf"{tmp_path}/no\.pth: no such file"):
        animator.swap_mask("~/no.pth")
    assert not (tmp_path / "~").exists()


def test_no_message_of_the_library_speaks_of_flags() -> None:
    """The commands translate options to flags; see ``safa.commands.flags``."""
    root = Path(safa.__file__).parent
    for folder in ("inference", "checkpoint", "models", "metrics", "head", "visualize"):
        for path in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
                    text = re.sub(r"--grid|checkpoint convert.*", "", node.value)
                    assert not re.search(r"(^|\W)--[a-z]", text), f"{path.name}:{node.lineno}: {text}"
