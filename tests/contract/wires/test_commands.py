"""Every option of every ``safa`` command changes what its help says."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from safa import asset_catalogue, asset_download
from safa.app import page as safa_page
from safa.app.work import Workshop
from safa.asset_catalogue import Asset
from safa.checkpoint import released
from safa.checkpoint.native import ModelInfo, save_model
from safa.cli import build_parser, main
from safa.commands import animate as animate_command
from safa.commands import swap as swap_command
from safa.config import ModelConfig, parse_settings
from safa.config.preprocess import EncodingConfig
from safa.data import dataset_files
from safa.data.clip_store import ClipStore
from safa.data.images import encode_image
from safa.data.shards import ClipRecord, ShardWriter, commit_index
from safa.data.video import probe, read_frames
from safa.errors import UserError
from safa.head import flame_files, load_head_assets, raster
from safa.inference import compose, face_animator, face_tracking, head_texture, loading, mesh, onnx_export
from safa.inference.model_runner import ModelRunner
from safa.inference.motion_transfer import movement_gain
from safa.inference.swap_mask import FaceMask
from safa.inference.video_output import SavedVideo
from safa.models.safa import Safa
from tests.conftest import MODEL
from tests.contract.wires.table import ABSENT, Row, Table, are, check, differ, options_of
from tests.contract.wires.world import BLUE, RED, Recorder, World, face_alignment

OUTPUTS = {"animate": "out.mp4", "swap": "out.mp4", "reconstruct3d": "heads"}


@dataclass
class Seen:
    """What a command did, as the model and the files saw it."""

    code: int = 0
    out: str = ""
    err: str = ""
    frames: list[Any] = field(default_factory=list)  # RenderedFrame
    video: Any = None
    precisions: set[Any] = field(default_factory=set)  # autocast dtypes inside the model; None: off
    batches: list[int] = field(default_factory=list)  # frames at once
    boxes: list[list[float]] = field(default_factory=list)  # crop boxes
    sources: list[Any] = field(default_factory=list)  # SourceCache
    results: list[Any] = field(default_factory=list)  # Reenactment
    masks: list[Any] = field(default_factory=list)  # of a swap
    references: list[Any] = field(default_factory=list)
    models: list[Safa] = field(default_factory=list)
    shapes: set[str] = field(default_factory=set)  # whose head shapes were drawn


def _around(target: Any, name: str, see: Callable[..., None]) -> Any:
    """A patch that lets ``see`` look at the arguments and the result of a function."""
    plain = getattr(target, name)

    def watched(*arguments: Any, **options: Any) -> Any:
        result = plain(*arguments, **options)
        see(result, *arguments, **options)
        return result

    return patch.object(target, name, watched)


@contextmanager
def _watching(seen: Seen, *, write: bool) -> Iterator[None]:
    def precision(*_: Any, **__: Any) -> None:
        on = torch.is_autocast_enabled("cpu")
        seen.precisions.add(torch.get_autocast_dtype("cpu") if on else None)

    def analysed(_: Any, model: Safa, image: Any) -> None:
        precision()
        seen.batches.append(len(image))
        seen.models.append(model)

    def animated(_: Any, runner: Any, source: Any, *rest: Any) -> None:
        seen.sources.append(source)
        seen.references.append(rest[2] if len(rest) > 2 else None)

    def swapped(_: Any, runner: Any, source: Any, driving: Any, mask: Any, **__: Any) -> None:
        seen.sources.append(source)
        seen.masks.append(mask)

    def written(video: Any, output: Path, grid: Path | None = None) -> SavedVideo:
        seen.video = video
        seen.frames = list(video.rendered_frames)
        return SavedVideo(len(seen.frames), 0, 32, 32)

    def reenacted(result: Any, _: Any, source: Any, driving: Any, **__: Any) -> None:
        own = torch.equal(driving.code.shape, source.face.code.shape.expand_as(driving.code.shape))
        seen.shapes.add("source" if own else "driving")
        precision()
        seen.results.append(result)

    def estimated(_: Any, tdmm: Any, image: Any) -> None:
        precision()

    def cropped(_: Any, frame: Any, box: Any, size: int) -> None:
        seen.boxes.append([round(float(value), 3) for value in box])

    with ExitStack() as stack:
        patches = [
            _around(Safa, "analyse", analysed),
            _around(Safa, "reenact", reenacted),
            _around(Safa, "prepare_source", precision),
            _around(mesh, "heads_of", estimated),
            _around(ModelRunner, "animate", animated),
            _around(ModelRunner, "swap", swapped),
            _around(face_animator, "crop_face", cropped),
            _around(compose, "crop_face", cropped),
            patch.object(mesh, "write_video", lambda *_, **__: None),  # the turntable
            patch.object(mesh, "PICTURE_SIZE", 48),
            patch.object(mesh, "TURNTABLE_SIZE", 48),
            patch.object(head_texture, "TEXTURE_SIZE", 64),
        ]
        if not write:
            patches += [
                patch.object(command, "write_video_file", written)
                for command in (animate_command, swap_command)
            ]
        for each in patches:
            stack.enter_context(each)
        yield


def command_line(world: World, command: str, inputs: list[Any], **options: Any) -> list[str]:
    """A whole command line; an option that is True stands alone."""
    words: list[Any] = [*command.split(), *inputs]
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif value is not ABSENT and value is not False:
            words += [flag, value]
    return [str(word) for word in words]


def run(world: World, words: list[str], *, write: bool = False) -> Seen:
    """The command in this process; the same line is run once."""

    def really() -> Seen:
        seen = Seen()
        out, err = io.StringIO(), io.StringIO()
        with _watching(seen, write=write), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            seen.code = main(words)
        seen.out, seen.err = out.getvalue(), err.getvalue()
        return seen

    return world.once(("run", write, *words), really)


# ---- animate and swap -------------------------------------------------------------------------------------


def _drive(command: str, world: World, given: dict[str, Any], *, write: bool = False) -> Seen:
    """The red photo driven by blue pictures, with changes; the checkpoint is the tiny one.

    Noise shows no face, so it is not looked for unless a test says so.
    """
    options = {"no_crop": True} | given
    source = options.pop("source", world.red)
    driving = options.pop("driving", world.pictures_folder(BLUE))
    output = options.pop("output", world.root / "unwritten.mp4")
    options = {"checkpoint": world.checkpoint, "output": output, "assets": world.root / "none"} | options
    seen = run(world, command_line(world, command, [source, driving], **options), write=write)
    assert seen.code == 0 or "may_fail" in given, seen.err
    return seen


def colour_of_source(seen: Seen) -> int:
    return int(seen.sources[0].image.mean((0, 2, 3)).argmax())


def colour_of_driving(seen: Seen) -> int:
    return int(np.mean([frame.driving.mean((0, 1)) for frame in seen.frames], axis=0).argmax())


def keypoints_of_model(seen: Seen) -> int:
    return int(seen.models[0].config.num_keypoints)


def precisions(seen: Seen) -> set[Any]:
    return seen.precisions


def largest_batch(seen: Seen) -> int:
    return max(seen.batches)


def first_frame_is_the_source(seen: Seen) -> bool:
    """Whether motion is a change since the first frame."""
    way = seen.results[0].kp_driving.value[0] - seen.sources[0].face.keypoints.value[0]
    return bool(way.abs().max() < 1e-5)


def way_of_keypoints(seen: Seen) -> tuple[float, float]:
    """From the source to the last frame, and the gain that fits faces."""
    source = seen.sources[0].face.keypoints
    way = torch.cat([result.kp_driving.value for result in seen.results])[-1] - source.value[0]
    model = seen.models[0]
    picture = torch.from_numpy(seen.frames[0].driving.copy()).permute(2, 0, 1)[None].float() / 255
    return float(way.norm()), movement_gain(source, model.analyse(picture).keypoints)


def number_of_reference(seen: Seen) -> int | None:
    """The driving frame that is the reference; None: the first is taken by itself."""
    reference = seen.references[0]
    if reference is None:
        return None
    return [bool((frame.driving == reference).all()) for frame in seen.frames].index(True)


def texture_outside_the_face(seen: Seen) -> bool:
    """Whether the albedo has anything where the mask without eyes has nothing."""
    outside = (seen.models[0].tdmm.uv_face_mask == 0).expand_as(seen.sources[0].albedo)
    return bool((seen.sources[0].albedo[outside] > 0).any())


def pictures(seen: Seen) -> Any:
    return np.stack([frame.image for frame in seen.frames])


def boxes(seen: Seen) -> list[list[float]]:
    return seen.boxes[:2]


def size_of_result(seen: Seen) -> tuple[int, ...]:
    return tuple(seen.frames[0].image.shape)


def count_and_rate(seen: Seen) -> tuple[int, float]:
    return len(seen.frames), seen.video.fps


def on(command: str, look: Callable[[Seen], Any], **given: Any) -> Callable[..., Any]:
    """Look at what a command did with an option set to a value."""

    def observed(world: World, option: str, value: Any) -> Any:
        made = {name: each(world) if callable(each) else each for name, each in given.items()}
        return look(_drive(command, world, made | {option: value}))

    observed.__name__ = look.__name__
    return observed


def loaded_with(what: str) -> Callable[..., Any]:
    """What reaches ``FaceAnimator``: device, precision, the model's rasteriser, the detector's weights."""

    def observed(world: World, option: str, value: Any, command: str) -> Any:
        taken = _animator_arguments(world, command, {option: value})
        return taken[what]

    observed.__name__ = what
    return observed


class _Enough(Exception):
    pass


def _animator_arguments(world: World, command: str, options: dict[str, Any]) -> dict[str, Any]:
    """Run a command until its model is loaded."""
    taken: dict[str, Any] = {}
    detectors: list[Any] = []

    def animator(model: Any, device: Any, *rest: Any, sidecars: bool, notes: Any) -> Any:
        folder = detectors[0].weights if detectors else None
        tracker = rest[2].name if rest[2] is not None else None
        taken.update(device=str(device), detector_folder=folder, search=(tracker, sidecars))
        taken.update(rasteriser=model.tdmm._rasterizer.__name__, precision=(rest[0], "AMX" in str(notes)))
        raise _Enough

    def detector(config: Any) -> Any:
        detectors.append(config)
        return Recorder()

    def serve(load: Callable[[], Any], *_: Any) -> None:
        load()

    inputs = {"app": [], "reconstruct3d": [world.red]}.get(command, [world.red, world.pictures_folder(BLUE)])
    given = {"checkpoint": world.checkpoint} | options
    if command != "app":
        given["output"] = world.root / OUTPUTS[command]
    with (
        face_alignment(),
        patch.object(loading, "FaceAnimator", animator),
        patch.object(torch.cuda, "device_count", lambda: 2),
        patch.object(torch.cpu, "_is_amx_tile_supported", lambda: True),
        patch.object(raster, "find_spec", lambda name: object()),
        patch("safa.inference.trackers.LibraryDetector", detector),
        patch.multiple("safa.inference.trackers", DlibDetector=Recorder, DlibLandmarks=Recorder),
        patch.multiple("safa.inference.trackers", DlibIdentity=Recorder, missing_of_dlib=lambda: ""),
        patch("safa.app.serve", serve),
        pytest.raises(_Enough),
    ):
        main(command_line(world, command, inputs, **given))
    return taken


def files_written(world: World, option: str, value: Any, command: str) -> list[str]:
    """Names of the videos in the folder of the result."""
    folder = world.folder()
    options = {"output": "result.mp4", option: value}
    paths = {name: folder / each for name, each in options.items() if each is not ABSENT}
    _drive(command, world, {"max_frames": 2, **paths}, write=True)
    names = sorted(path.name for path in folder.iterdir())
    assert all(len(list(read_frames(folder / name))) == 2 for name in names)
    return names


def sound(world: World, option: str, value: Any, command: str) -> bool:
    output = world.folder() / "out.mp4"
    _drive(command, world, {"driving": world.video, "output": output, option: value}, write=True)
    return probe(output).has_sound


def sidecar_rows(world: World, option: str, value: Any, command: str) -> list[float]:
    """Where the landmarks beside the video have the face in each frame, before anything is smoothed."""
    found: list[Any] = []
    plain = face_tracking.smooth_track

    def smooth(crop_boxes: Any, fps: float, cuts: Any) -> Any:
        found.append(crop_boxes[:, 0])
        return plain(crop_boxes, fps, cuts)

    options = {"checkpoint": world.checkpoint, "output": world.root / "unwritten.mp4", option: value}
    with patch.object(face_tracking, "smooth_track", smooth), _watching(Seen(), write=False):
        words = command_line(world, command, [world.known_photo, world.known_video], **options)
        assert main(words) == 0
    return [round(float(x), 2) for x in found[0]]


def mask_kind(seen: Seen) -> str:
    return type(seen.masks[0]).__name__


def mask_classes(seen: Seen) -> tuple[int, ...]:
    classes: tuple[int, ...] = seen.masks[0].classes
    return classes


def mask_is_hard(seen: Seen) -> bool:
    hard: bool = seen.masks[0].hard
    return hard


def shapes_drawn(seen: Seen) -> set[str]:
    """Whose head shape was drawn."""
    return seen.shapes


def mask_is_binary(seen: Seen) -> bool:
    # Of many heads, since the outline of a small one may fall on whole pixels.
    pictures = torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    values = seen.masks[0].of(pictures * torch.linspace(0, 1, 32)[:, None, None, None])
    assert 0 < values.mean() < 1
    return set(values.unique().tolist()) == {0.0, 1.0}


def parsed(look: Callable[[Seen], Any], **given: Any) -> Callable[..., Any]:
    """A swap with a face parser that says one half everywhere: its network takes long."""

    def observed(world: World, option: str, value: Any) -> Any:
        with patch.object(FaceMask, "of", lambda mask, image: torch.full((len(image), 1, 32, 32), 0.5)):
            made = {name: each(world) for name, each in given.items()}
            return look(_drive("swap", world, {"max_frames": 1, **made, option: value}))

    observed.__name__ = look.__name__
    return observed


class TwoFaces:
    """A tracker that sees a large face at the left and a small one at the right of every picture."""

    name = "two faces"
    boxes = (np.array([12.0, 20.0, 20.0]), np.array([38.0, 20.0, 10.0]))

    def crop_boxes(self, frames: Any, choice: Any = None) -> Iterator[Any]:
        for _ in frames:
            yield self.boxes[0 if choice is None else choice - 1]

    def faces(self, frame: Any) -> list[Any]:
        return list(self.boxes)


def chosen_faces(world: World, option: str, value: Any, command: str) -> list[float]:
    """Where the crops of the photo and of the first driving frame are, px from the left."""
    options = {option: value, "checkpoint": world.checkpoint, "output": world.folder() / "out.mp4"}
    inputs, seen = [world.red, world.pictures_folder(BLUE)], Seen()
    if command == "reconstruct3d":
        inputs, options["output"] = [world.red], world.folder()
    words = command_line(world, command, inputs, **options)
    with patch.object(loading, "load_face_tracker", lambda *_: TwoFaces()), _watching(seen, write=False):
        assert main(words) == 0
    return [box[0] for box in seen.boxes[:2]]


MODEL_OPTIONS = [
    # option, values, what is seen
    ("--device", "cpu", "cuda:1", loaded_with("device"), are("cpu", "cuda:1")),
    (
        *("--assets", lambda world: world.root, lambda world: world.detector_folder),
        loaded_with("detector_folder"),
        lambda a, b: a is None and b.name == "detector",
    ),
    ("--detector", "dlib", "auto", loaded_with("search"), are(("dlib", False), ("dlib", True))),
    (
        *("--rasterizer", "auto", "pytorch3d", loaded_with("rasteriser")),
        are("rasterize", "rasterize_pytorch3d"),
    ),
    (
        *("--precision", ABSENT, "auto", loaded_with("precision")),
        are((torch.float32, False), (torch.bfloat16, True)),
    ),
    ("--detector", "dlib", "none", loaded_with("search"), are(("dlib", False), (None, True))),
]

relative = {"relative": True, "no_crop": True}


def _model_rows(command: str) -> Iterator[Row]:
    yield Row(
        *(f"{command} --checkpoint", lambda w: w.checkpoint, lambda w: w.other_checkpoint),
        *(on(command, keypoints_of_model), are(4, 3)),
    )
    yield Row(
        *(f"{command} --precision", "float32", "bfloat16", on(command, precisions)),
        are({None}, {torch.bfloat16}),
    )
    yield Row(f"{command} --batch-size", 3, 2, on(command, largest_batch), are(3, 2))
    for option, one, other, look, relation in MODEL_OPTIONS:
        yield Row(f"{command} {option}", one, other, look, relation)


def _video_rows(command: str) -> Iterator[Row]:
    source, driving = (
        ("source", lambda w: w.red, lambda w: w.blue),
        ("driving", lambda w: w.pictures_folder(RED)),
    )
    yield Row(f"{command} {source[0]}", source[1], source[2], on(command, colour_of_source), are(0, 2))
    yield Row(
        *(f"{command} driving", driving[1], lambda w: w.pictures_folder(BLUE)),
        *(on(command, colour_of_driving), are(0, 2)),
    )
    yield from _model_rows(command)
    yield Row(
        *(f"{command} --no-crop", False, True),
        on(command, boxes, source=lambda w: w.known_photo, driving=lambda w: w.known_video),
        # The photo's square by its landmarks, the middle of 50 x 40 px; the video's, smoothed, and 64 x 48.
        lambda a, b: a[0] == [30, 20.15, 18.5] and a[1][2] == 22.2 and b == [[25, 20, 40], [32, 24, 48]],
    )
    yield Row(f"{command} --face", ABSENT, 2, chosen_faces, are([12.0, 12.0], [38.0, 12.0]))
    yield Row(f"{command} --driving-face", ABSENT, 2, chosen_faces, are([12.0, 12.0], [12.0, 38.0]))
    yield Row(
        *(f"{command} --output", "a.mp4", "b.mov", files_written),
        are(["a.mp4"], ["b.mov"]),
    )
    yield Row(
        *(f"{command} --grid", ABSENT, "grid.mp4", files_written),
        are(["result.mp4"], ["grid.mp4", "result.mp4"]),
    )
    yield Row(f"{command} --max-frames", ABSENT, 3, on(command, count_and_rate), are((7, 25.0), (3, 25.0)))
    yield Row(f"{command} --max-seconds", ABSENT, 0.2, on(command, count_and_rate), are((7, 25.0), (5, 25.0)))
    yield Row(
        *(f"{command} --side-by-side", False, True, on(command, size_of_result)),
        # Three panels and two gaps of 4 px.
        lambda a, b: a[0] == b[0] and b[1] > 2 * a[1] and (command == "swap" or b[1] == 3 * a[1] + 8),
    )


ANIMATE = [
    *_video_rows("animate"),
    Row("animate --relative", False, True, on("animate", first_frame_is_the_source), are(False, True)),
    Row(
        *("animate --adapt-scale", False, True, on("animate", way_of_keypoints, **relative)),
        # The same way, times how much larger the source's face is.
        lambda a, b: a[0] > 0 and abs(a[1] - 1) > 1e-3 and abs(b[0] / a[0] - a[1]) < 1e-3,
    ),
    Row(
        *("animate --find-best-frame", False, True),
        on("animate", number_of_reference, driving=lambda w: w.alike, **relative),
        are(None, 4),
    ),
    Row("animate --best-frame", ABSENT, 3, on("animate", number_of_reference, **relative), are(None, 3)),
    Row("animate --with-eye", False, True, on("animate", texture_outside_the_face), are(False, True)),
    Row("animate --with-eye", False, True, on("animate", pictures), differ),
    Row("animate --size", ABSENT, 50, on("animate", size_of_result), are((32, 32, 3), (50, 50, 3))),
    Row("animate --paste-back", False, True, on("animate", size_of_result), are((32, 32, 3), (40, 50, 3))),
    Row(
        *("animate --fps", ABSENT, 6.25, on("animate", count_and_rate, driving=lambda w: w.video)),
        are((7, 12.5), (4, 6.25)),
    ),
    Row(
        *("animate --fps", ABSENT, 6.25, sidecar_rows),
        # At half the rate, every second row is meant.
        are([30.0, 31.0, 32.0, 33.0, 34.0, 35.0, 36.0], [30.0, 32.0, 34.0, 36.0]),
    ),
    Row("animate --no-sound", False, True, sound, are(True, False)),
]

SWAP = [
    *_video_rows("swap"),
    Row(
        *("swap --parser", ABSENT, lambda w: w.parser_file, parsed(mask_kind)),
        are("HeadOutline", "FaceMask"),
    ),
    Row(
        *("swap --classes", ABSENT, "nose,lips", parsed(mask_classes, parser=lambda w: w.parser_file)),
        are(tuple(range(1, 16)), (10, 12, 13)),
    ),
    Row("swap --hard", False, True, on("swap", mask_is_binary, max_frames=1), are(False, True)),
    Row(
        *("swap --hard", False, True),
        parsed(mask_is_hard, parser=lambda w: w.parser_file),
        are(False, True),
    ),
    Row(
        *("swap --source-shape", False, True, on("swap", shapes_drawn, max_frames=2)),
        are({"driving"}, {"source"}),
    ),
]


# ---- reconstruct3d ----------------------------------------------------------------------------------------


def _reconstruct(world: World, option: str, value: Any, **given: Any) -> tuple[Seen, Path]:
    options = {"checkpoint": world.checkpoint, "assets": world.root / "none", **given, option: value}
    inputs = options.pop("inputs", [world.known_photo, world.known_video])
    output = world.folder() / options.pop("output", "heads")
    seen = run(world, command_line(world, "reconstruct3d", inputs, output=output, **options))
    assert seen.code == 0, seen.err
    return seen, output


def heads(world: World, option: str, value: Any, command: str) -> list[str]:
    _, output = _reconstruct(world, option, value, max_frames=1, no_crop=True)
    return sorted(str(path.parent.relative_to(output.parent)) for path in output.rglob("head.obj"))


def head_precisions(world: World, option: str, value: Any, command: str) -> set[Any]:
    return _reconstruct(world, option, value)[0].precisions


def vertices_of_head(world: World, option: str, value: Any, command: str) -> str:
    _, output = _reconstruct(world, option, value, inputs=[world.red], no_crop=True)
    return (output / "photo-200" / "code.json").read_text()


def rows_of_table(world: World, option: str, value: Any, command: str) -> int:
    _, output = _reconstruct(world, option, value, inputs=[world.known_video])
    count: int = pq.read_metadata(output / "known" / "heads.parquet").num_rows
    return count


def row_groups(world: World, option: str, value: Any, command: str) -> int:
    """One for each batch."""
    _, output = _reconstruct(world, option, value, inputs=[world.known_video])
    count: int = pq.read_metadata(output / "known" / "heads.parquet").num_row_groups
    return count


def head_boxes(world: World, option: str, value: Any, command: str) -> set[tuple[float, ...]]:
    return {(box[0], box[1], box[2]) for box in _reconstruct(world, option, value, max_frames=1)[0].boxes}


RECONSTRUCT = [
    Row(
        *("reconstruct3d inputs", lambda w: [w.red], lambda w: [w.blue, w.known_photo], heads),
        are(["heads/photo-200"], ["heads/known-photo", "heads/photo-30"]),
    ),
    Row(
        *("reconstruct3d --output", "a", "b", heads),
        are(["a/known", "a/known-photo"], ["b/known", "b/known-photo"]),
    ),
    Row(
        *("reconstruct3d --checkpoint", lambda w: w.checkpoint, lambda w: w.twisted_checkpoint),
        *(vertices_of_head, differ),
    ),
    Row(
        *("reconstruct3d --precision", "float32", "bfloat16", head_precisions),
        are({None}, {torch.bfloat16}),
    ),
    Row("reconstruct3d --batch-size", 4, 2, row_groups, are(2, 4)),
    *(Row(f"reconstruct3d {o}", one, other, look, rel) for o, one, other, look, rel in MODEL_OPTIONS),
    Row(
        *("reconstruct3d --no-crop", False, True, head_boxes),
        lambda a, b: (30, 20.15, 18.5) in a and b == {(25, 20, 40), (32, 24, 48)},
    ),
    Row("reconstruct3d --face", ABSENT, 2, chosen_faces, are([12.0, 38.0], [38.0])),
    Row("reconstruct3d --max-frames", ABSENT, 3, rows_of_table, are(7, 3)),
]


# ---- app --------------------------------------------------------------------------------------------------


def _served(world: World, option: str, value: Any) -> tuple[dict[str, Any], Any]:
    """What the page is launched with, and its workshop."""

    class Page:
        launch = Recorder()
        queue = Recorder()

    shown = Recorder(Page)
    Page.launch.calls.clear()
    plain = safa_page.importlib.util.find_spec
    options = {"checkpoint": world.checkpoint, option: value}
    with (
        patch.object(safa_page.importlib.util, "find_spec", lambda name: name == "gradio" or plain(name)),
        patch.object(safa_page, "build_page", shown),
        patch.object(safa_page, "JobProcess", lambda *given: contextlib.nullcontext(_workshop(*given))),
        patch.object(safa_page, "_theme", lambda: None),
        patch.dict(os.environ),
        patch.object(safa_page.signal, "signal", lambda *_: None),
        contextlib.redirect_stdout(io.StringIO()),
        face_alignment(),
    ):
        assert main(command_line(world, "app", [], **options)) == 0
    return Page.launch.first[1], shown.first[0][0]


def _workshop(open_model: Callable[[], Any], *arguments: Any) -> Workshop:
    """What the page's other process makes of its arguments, here."""
    return Workshop(open_model(), *arguments)


def served(name: str) -> Callable[..., Any]:
    def observed(world: World, option: str, value: Any, command: str) -> Any:
        return _served(world, option, value)[0][name]

    observed.__name__ = name
    return observed


def password_file(world: World) -> Path:
    path = world.root / "password"
    path.write_text("ann:secret")
    return path


def known_hosts(world: World, option: str, value: Any, command: str) -> frozenset[str]:
    return frozenset(_served(world, option, value)[0]["app_kwargs"]["lifespan"].keywords["hosts"])


def longest_job(world: World, option: str, value: Any, command: str) -> float:
    minutes: float = _served(world, option, value)[1]._limits.max_minutes
    return minutes


def taken_by_the_page(world: World, option: str, value: Any, command: str) -> bool:
    """Whether the page takes the video of half a second and some kilobytes."""
    _, workshop = _served(world, option, value)
    try:
        workshop._limits.check_video(str(world.video))
    except UserError as error:
        return "who serves this page can raise the limit" not in str(error)
    return True


def app_animator(what: Callable[[Any], Any]) -> Callable[..., Any]:
    def observed(world: World, option: str, value: Any, command: str) -> Any:
        return what(_served(world, option, value)[1]._animator)

    observed.__name__ = "animator_of_the_page"
    return observed


APP = [
    Row(
        *("app --checkpoint", lambda w: w.checkpoint, lambda w: w.other_checkpoint),
        *(app_animator(lambda a: a.runner.model.config.num_keypoints), are(4, 3)),
    ),
    Row(
        *("app --precision", "float32", "bfloat16", app_animator(lambda a: a.precision)),
        are("float32", "bfloat16"),
    ),
    Row(
        "app --batch-size",
        4,
        2,
        app_animator(lambda a: (a.batch_size, a.runner._batch_size)),
        are((4, 4), (2, 2)),
    ),
    *(Row(f"app {o}", one, other, look, rel) for o, one, other, look, rel in MODEL_OPTIONS),
    Row("app --host", ABSENT, "127.0.0.2", served("server_name"), are("127.0.0.1", "127.0.0.2")),
    Row("app --auth", ABSENT, password_file, served("auth"), are(None, ("ann", "secret"))),
    Row("app --allow-host", ABSENT, "a.example", known_hosts, lambda a, b: b - a == {"a.example"}),
    Row("app --max-minutes", ABSENT, 2, longest_job, are(30.0, 2.0)),
    Row("app --port", ABSENT, 1234, served("server_port"), are(7860, 1234)),
    Row("app --max-mb", ABSENT, 7, served("max_file_size"), are("100mb", "7mb")),
    Row("app --max-mb", ABSENT, 0.001, taken_by_the_page, are(True, False)),
    Row("app --max-seconds", ABSENT, 0.2, taken_by_the_page, are(True, False)),
]


# ---- doctor, inspect, assets, checkpoint ------------------------------------------------------------------


def said(world: World, option: str, value: Any, command: str) -> str:
    """What a command that reads one thing writes."""
    positional = "-" not in option and f"{command} {option}" in POSITIONALS
    words = (
        command_line(world, command, [value])
        if positional
        else command_line(world, command, [], **{option: value})
    )
    with face_alignment():
        seen = run(world, words)
    assert seen.code == 0, seen.err
    return seen.out


def sheet(world: World, option: str, value: Any, command: str) -> tuple[str, int] | None:
    """Format and width of the contact sheet."""
    output = world.folder() / (value if option == "output" else "sheet.png")
    options = {"output": output} | ({} if option == "output" else {option: value})
    assert run(world, command_line(world, "inspect", [world.clips], **options)).code == 0
    with Image.open(output) as picture:
        return str(picture.format), picture.width


def downloaded(world: World, option: str, value: Any, command: str) -> list[str]:
    """Files that would be downloaded, with their folder where a test names one."""
    asked: list[str] = []
    root = world.folder()
    options = {"yes": True, "folder": root} | ({} if option == "names" else {option: value})
    if option == "folder":
        options["folder"] = root / value

    def download(asset: Any, folder: Path, report: Any) -> Path:
        asked.append(str((folder / asset.file).relative_to(root)))
        folder.mkdir(exist_ok=True)
        (folder / asset.file).write_bytes(b"x")
        return folder / asset.file

    catalogue = tuple(Asset(name, "test", "none", "nobody") for name in ("one.pth", "two.pth"))
    names = value if option == "names" else ["one.pth"]
    with (
        patch.object(asset_catalogue, "CATALOGUE", catalogue),
        patch.object(asset_download, "download_asset", download),
    ):
        run(world, command_line(world, command, names, **options))
    return asked


def converted(world: World, option: str, value: Any, command: str) -> Any:
    """What ``assets convert`` asks for, and which file it writes."""
    names = ("flame", "template", "landmarks", "masks")
    folder = world.folder()
    options = {name: folder / name for name in names} | {"output": folder / "head.npz"}
    options[option] = folder / value
    asked = Recorder(world.head)
    with patch.object(flame_files, "read_head_assets", asked):
        assert run(world, command_line(world, "assets convert", [], **options)).code == 0
    files = asked.first[0][0]
    parts = dict(
        zip(names, (files.model, files.template, files.landmarks, files.masks), strict=True),
        output=next(folder.iterdir()),
    )
    return {name: path.name for name, path in parts.items() if path.name not in (*names, "head.npz")}


def released_and_back(world: World, option: str, value: Any, command: str) -> Any:
    """Convert a checkpoint and say what came of it."""
    source = world.released
    options = {"output": world.folder() / "model", "config": source.with_name("model.yaml"), option: value}
    inputs = [options.pop("checkpoint", source)]
    if option == "output":
        options["output"] = world.folder() / value
    seen = run(world, command_line(world, "checkpoint convert", inputs, **options))
    return seen.code, Path(options["output"]).name if Path(options["output"]).exists() else seen.err[:20]


def packed(world: World, option: str, value: Any, command: str) -> Any:
    """Pack a small model with the built-in head; what is written, and its step."""
    options = {"output": world.folder() / (value if option == "output" else "model")}
    run_folder = world.folder() / "run"
    config = parse_settings(MODEL, ModelConfig, "test")
    step = value if option == "checkpoint" else 1
    model = Safa(config, load_head_assets(config.head))
    save_model(run_folder / "model", model, ModelInfo("full", config, step, "r"))
    assert run(world, command_line(world, "checkpoint pack", [run_folder], **options)).code == 0
    record = json.loads((options["output"] / "model.json").read_text())
    return options["output"].name, record["step"]


def sizes_converted_to(world: World, option: str, value: Any, command: str) -> int:
    """Pictures of the model that the file is read as, px; the published size is not built."""
    asked = Recorder(ModelInfo("full", ModelConfig(), 1, "test"))
    options = {"output": world.folder() / "model", option: value}
    with patch.object(released, "import_released", asked):
        assert run(world, command_line(world, command, [world.released], **options)).code == 0
    size: int = asked.first[0][2].image_size
    return size


POSITIONALS = {"inspect dataset", "checkpoint inspect checkpoint", "dataset verify dataset"}


def _small_shards(folder: Path) -> Path:
    """A data set of three clips in three shards."""
    for number in range(3):
        name = f"p{number}#v#000000#000002"
        with ShardWriter(folder) as shard:
            images = [encode_image(np.full((8, 8, 3), 50 * number, np.uint8), EncodingConfig())] * 2
            shard.add_piece(name, 0, images, np.zeros((2, 68, 2), np.float32), np.ones(2, np.float32))
            split = "test" if number == 2 else "train"
            shard.keep(ClipRecord(name, f"p{number}", "v", split, 0, 2, 25.0, 8, 8, (0, 0, 8, 8), "test"))
    commit_index(folder)
    return folder


def shards_after_compact(world: World, option: str, value: Any, command: str) -> int:
    """How many shards are left, in both places that a data set may be named by."""
    run_folder = world.folder()
    clips = _small_shards(run_folder / "clips")
    named = {"run": run_folder, "clips": clips}[value] if option == "dataset" else clips
    options = {} if option == "dataset" else {option: value}
    assert run(world, command_line(world, command, [named], **options)).code == 0
    return len(ClipStore(clips).shards)


def bytes_of_a_shard(world: World, option: str, value: Any, command: str) -> int:
    """What ``dataset compact`` takes for a full shard."""
    asked = Recorder((3, 1))
    with patch.object(dataset_files, "compact", asked):
        assert run(world, command_line(world, command, [world.clips], **{option: value})).code == 0
    size: int = asked.first[0][1]
    return size


def converted_clips(world: World, option: str, value: Any, command: str) -> list[str]:
    """Clips in the new data set, which an older one was converted to."""
    root = world.folder()
    for name in ("one", "other"):
        _write_old(root / name, name)
    places = {"old": root / "one", "new": root / "new", option: root / value}
    assert run(world, command_line(world, command, [places["old"], places["new"]])).code == 0
    return [str(path.parent.name) for path in root.glob("*/index.json")] + [
        clip.clip_id for clip in ClipStore(places["new"]).clips()
    ]


def _write_old(folder: Path, person: str) -> None:
    row = {
        **{"clip_id": f"{person}#v#000000#000001", "person_id": person, "video_id": "v", "split": "train"},
        **{"start": 0, "end": 1, "piece": 0, "n_frames": 1, "fps": 25.0, "height": 8, "width": 8},
        **{"frames": [b"x"], "landmarks": [[0.0] * 136], "face_score": [1.0], "bbox": [0, 0, 8, 8]},
        "source": "test",
    }
    (folder / "split=train").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([row]), folder / "split=train" / "clip.parquet")


def exported(world: World, option: str, value: Any, command: str) -> list[str]:
    """What ``dataset export`` writes, below the folder of the test."""
    root = world.folder()
    for name in ("one", "other"):
        _small_shards(root / name)
    inputs = [root / (value if option == "dataset" else "one")]
    options: dict[str, Any] = {"output": root / "out"}
    if option == "output":
        options["output"] = root / value
    elif option != "dataset":
        options[option] = value
    if option == "dataset":  # the two data sets hold the same: one loses its test clip
        compact_folder = root / "other"
        shutil.rmtree(compact_folder)
        with ShardWriter(compact_folder) as shard:
            images = [encode_image(np.zeros((8, 8, 3), np.uint8), EncodingConfig())] * 2
            name, points = "z#v#000000#000002", np.zeros((2, 68, 2), np.float32)
            shard.add_piece(name, 0, images, points, np.ones(2, np.float32))
            shard.keep(ClipRecord(name, "z", "v", "train", 0, 2, 25.0, 8, 8, (0, 0, 8, 8), "test"))
        commit_index(compact_folder)
    assert run(world, command_line(world, command, inputs, **options)).code == 0
    made = options["output"]
    return sorted(str(path.relative_to(root)) for path in made.glob("*/*") if path.suffix != ".npy")


def _all_exported(folder: str, suffix: str, numbers: Sequence[int] = (2, 0, 1)) -> list[str]:
    splits = {0: "train", 1: "train", 2: "test"}
    return sorted(f"{folder}/{splits[n]}/p{n}#v#000000#000002{suffix}" for n in numbers)


DATASET = [
    Row(
        *("dataset verify dataset", lambda w: w.clips, lambda w: w.faces, said),
        lambda a, b: a.startswith("4 clips") and a != b and "no damage" in b,
    ),
    Row("dataset compact dataset", "run", "clips", shards_after_compact, are(1, 1)),
    Row("dataset compact --shard-mb", ABSENT, 1, bytes_of_a_shard, are(2**29, 2**20)),
    Row(
        *("dataset convert old", "one", "other", converted_clips),
        are(["new", "one#v#000000#000001"], ["new", "other#v#000000#000001"]),
    ),
    Row(
        *("dataset convert new", "new", "newer", converted_clips),
        are(["new", "one#v#000000#000001"], ["newer", "one#v#000000#000001"]),
    ),
    Row(
        *("dataset export dataset", "one", "other", exported),
        are(_all_exported("out", ".mp4"), ["out/train/z#v#000000#000002.mp4"]),
    ),
    Row(
        *("dataset export --output", "a", "b", exported),
        are(_all_exported("a", ".mp4"), _all_exported("b", ".mp4")),
    ),
    Row(
        *("dataset export --format", "mp4", "png", exported),
        are(_all_exported("out", ".mp4"), _all_exported("out", "")),
    ),
    Row(
        *("dataset export --split", ABSENT, "test", exported),
        are(_all_exported("out", ".mp4"), _all_exported("out", ".mp4", [2])),
    ),
    Row(
        *("dataset export --clips", ABSENT, 1, exported),
        are(_all_exported("out", ".mp4"), _all_exported("out", ".mp4", [0])),
    ),
]


def given_to_export(what: Callable[[Any, Path], Any]) -> Callable[..., Any]:
    """What ``safa export`` hands to the exporter: the model, and where it goes."""

    def observed(world: World, option: str, value: Any, command: str) -> Any:
        options = {"checkpoint": world.checkpoint, "onnx": "graphs", option: value}
        asked = Recorder([])
        with patch.object(onnx_export, "export_onnx", asked), contextlib.redirect_stdout(io.StringIO()):
            assert main(command_line(world, "export", [options.pop("checkpoint")], **options)) == 0
        return what(*asked.first[0][:2])

    observed.__name__ = "given_to_export"
    return observed


OTHERS = [
    Row(
        *("export checkpoint", lambda w: w.checkpoint, lambda w: w.other_checkpoint),
        *(given_to_export(lambda model, _: model.config.num_keypoints), are(4, 3)),
    ),
    Row("export --onnx", "a", "b", given_to_export(lambda _, folder: folder.name), are("a", "b")),
    Row(
        *("doctor --assets", lambda w: w.root / "none", lambda w: w.detector_folder, said),
        lambda a, b: "blazeface_back (" in b and "blazeface_back (" not in a,
    ),
    Row(
        *("inspect dataset", lambda w: w.clips, lambda w: w.faces, said),
        lambda a, b: "3 clips of 3 people" in a and "test: 2 clips of 2 people" in b,
    ),
    Row(
        *("inspect --output", "a.png", "b.jpg", sheet),
        lambda a, b: (a[0], b[0]) == ("PNG", "JPEG"),
    ),
    Row("inspect --faces", 4, 1, sheet, lambda a, b: a[1] > 3 * b[1]),
    Row(
        *("assets check --folder", lambda w: w.root / "none", lambda w: w.detector_folder, said),
        lambda a, b: "/none/" in a and "/detector/" in b,
    ),
    Row("assets download names", ["one.pth"], ["two.pth"], downloaded, are(["one.pth"], ["two.pth"])),
    Row("assets download --yes", ABSENT, True, downloaded, are([], ["one.pth"])),
    Row("assets download --folder", "a", "b", downloaded, are(["a/one.pth"], ["b/one.pth"])),
    *(
        Row(f"assets convert --{name}", name, f"other-{name}", converted, are({}, {name: f"other-{name}"}))
        for name in ("flame", "template", "landmarks", "masks")
    ),
    Row("assets convert --output", "head.npz", "other.npz", converted, are({}, {"output": "other.npz"})),
    Row(
        *("checkpoint inspect checkpoint", lambda w: w.checkpoint, lambda w: w.released, said),
        lambda a, b: "stage full, step 5, 32 px" in a and "released layout, epoch 50" in b,
    ),
    Row(
        *("checkpoint convert checkpoint", lambda w: w.released, lambda w: w.head_file, released_and_back),
        lambda a, b: a == (0, "model") and b[0] == 2,
    ),
    Row(
        *("checkpoint convert --output", "a", "b", released_and_back),
        are((0, "a"), (0, "b")),
    ),
    Row("checkpoint pack checkpoint", 3, 4, packed, are(("model", 3), ("model", 4))),
    Row("checkpoint pack --output", "a", "b", packed, are(("a", 1), ("b", 1))),
    Row(
        *(
            "checkpoint convert --config",
            lambda w: w.released.with_name("model.yaml"),
            ABSENT,
            sizes_converted_to,
        ),
        are(32, 256),
    ),
]

TABLE = Table("safa", [*ANIMATE, *SWAP, *RECONSTRUCT, *APP, *OTHERS, *DATASET], {})


@pytest.mark.parametrize("row", TABLE.rows, ids=lambda row: row.name)
def test_wire(world: World, row: Row) -> None:
    command, _, option = row.key.rpartition(" ")
    name = option.removeprefix("--").replace("-", "_")
    takes_command = row.look.__code__.co_argcount == 4
    check(world, row, lambda value: row.look(world, name, value, *([command] if takes_command else [])))


def test_every_option_has_a_row() -> None:
    known = list(options_of(build_parser()))
    assert len(known) > 60
    assert TABLE.missing(known) == []
    assert TABLE.unknown(known) == []
