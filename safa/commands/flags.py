"""What several commands share: flags, upstream's names for them, notes, and writing a video."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safa.decimals import whole
from safa.errors import UserError, printable
from safa.messages import Progress, TerminalLine
from safa.paths import local_path

if TYPE_CHECKING:
    from safa.inference.face_animator import FaceAnimator

# Flags of the authors' scripts, and ours for them.
UPSTREAM = {
    "--adapt_scale": "--adapt-scale",
    "--find_best_frame": "--find-best-frame",
    "--best_frame": "--best-frame",
    "--with_eye": "--with-eye",
    "--result_video_pth": "--output",
    "--result_video": "--output",
    "--result_vis_video_pth": "--grid",
    "--swap_index": "--classes",
}
UPSTREAM_POSITIONALS = ("--source_image_pth", "--source_image"), ("--driving_video_pth", "--driving_video")
UPSTREAM_COMMANDS = ("animate", "swap")

# Messages name options as Python callers write them; these are the flags for them.
FLAG_OF_OPTION = {
    "crop=False": "--no-crop",
    "relative=True": "--relative",
    "adapt_scale=True": "--adapt-scale",
    'best_frame="find"': "--find-best-frame",
    "paste_back=True": "--paste-back",
    "face=2": "--face 2",
    "checkpoint=PATH": "--checkpoint PATH",
}
_WITH_VALUE = r"\bbest_frame=-?[0-9]+|\b(driving_)?face=\S+"
OPTION = re.compile("|".join([*map(re.escape, FLAG_OF_OPTION), _WITH_VALUE]))
# Where an option alone is at fault.
FLAG_OF_PLACE = {
    name: f"--{name.replace('_', '-')}"
    for name in (
        "device",
        "precision",
        "rasterizer",
        "batch_size",
        "best_frame",
        "fps",
        "max_frames",
        "max_seconds",
        "size",
        "classes",
        "detector",
        "face",
        "driving_face",
    )
}


def in_flags(text: str) -> str:
    """Say in flags what a message says in options: ``Use crop=False`` becomes ``Use --no-crop``."""
    return OPTION.sub(lambda option: FLAG_OF_OPTION.get(option.group()) or _flag(option.group()), text)


def _flag(option: str) -> str:
    return "--" + option.partition("=")[0].replace("_", "-")


def error_in_flags(error: UserError) -> UserError:
    """Return the same error in the words of the command line."""
    where = FLAG_OF_PLACE.get(error.where, error.where)
    return UserError(in_flags(error.what), where, in_flags(error.fix))


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that describe a ``FaceAnimator``; ``load_animator_from_flags`` reads them."""
    parser.add_argument(
        "--checkpoint",
        metavar="MODEL",
        help="path or URI of a training run's folder, a converted checkpoint, or a released file "
        "(default: the only model below runs/, else the small one that comes with safa)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="float32",
        help="precision of convolutions; auto is bfloat16 on machines that are fast at it (default: float32, "
        "the same pictures on all machines)",
    )
    parser.add_argument(
        "--rasterizer",
        choices=("auto", "native", "pytorch3d"),
        default="auto",
        help="what draws the 3D head: native, or pytorch3d if PyTorch3D is installed (default: auto, "
        "what the model was trained with; native where that is not installed)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="driving frames at once (default: 1 to 8 on a CPU, by their size; by the memory of a GPU)",
    )
    parser.add_argument(
        "--detector",
        choices=("auto", "dlib", "fan", "none"),
        default="auto",
        help="what finds faces: dlib, fan (face-alignment), none (landmarks beside a file alone); default: "
        "auto, landmarks beside a file, else fan if its weights are there, else dlib",
    )
    parser.add_argument(
        "--assets",
        metavar="DIR",
        help="folder with a face detector's weights (default: the folders that `safa doctor` lists)",
    )


def add_video_flags(parser: argparse.ArgumentParser) -> Any:
    """Add the flags of commands that write a video, and return their group."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        help="what to write: a video (.mp4, .mov, .mkv), a .gif, or the first frame (.png, .jpg)",
    )
    group.add_argument(
        "--grid", type=Path, metavar="FILE", help="write a second video with all intermediate results"
    )
    group.add_argument("--max-frames", type=int, metavar="N", help="stop after N frames")
    group.add_argument("--max-seconds", type=float, metavar="S", help="stop after S seconds of the video")
    group.add_argument(
        "--side-by-side", action="store_true", help="show source, driving frame and result beside each other"
    )
    return group


def check_inputs(source: str, driving: str) -> tuple[Path, Path]:
    """Look for the inputs before a model is loaded, which takes seconds; return their paths.

    Raises:
        UserError: one is not there. A number that is no file is a camera.
    """
    photo, video = local_path(source, "the photo"), local_path(driving, "the video")
    if not photo.exists():
        raise UserError("no such photo", source, "Check the path.")
    if not video.exists() and whole(driving) is None:
        raise UserError("no such video", driving, "Check the path.")
    return photo, video


def add_no_crop(group: Any) -> None:
    """Add ``--no-crop`` to a parser or a group of flags."""
    group.add_argument(
        "--no-crop",
        action="store_true",
        help="the inputs are already cropped around the face: use the centre square",
    )


def face_choice(text: str) -> int | tuple[float, float]:
    """Read the value of ``--face``: a number, or a place as ``X,Y``."""
    number = whole(text)
    if number is not None:
        return number
    x, comma, y = text.partition(",")
    if not comma:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor X,Y")
    try:
        return float(x), float(y)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor X,Y") from None


def add_face(group: Any, *, driving: bool = True) -> None:
    """Add ``--face``, and ``--driving-face`` to commands with two inputs."""
    group.add_argument(
        "--face",
        type=face_choice,
        metavar="FACE",
        help="which face of the photo: its number, the largest is 1, or a place X,Y in px",
    )
    if driving:
        group.add_argument(
            "--driving-face",
            type=face_choice,
            metavar="FACE",
            help="which face of the video, in the first frame that shows it, the same way",
        )


def load_animator_from_flags(arguments: argparse.Namespace) -> FaceAnimator:
    """Load the model that the flags of ``add_model_flags`` describe."""
    from safa.inference.loading import open_animator

    animator = open_animator(
        arguments.checkpoint,
        device=arguments.device,
        precision=arguments.precision,
        rasterizer=arguments.rasterizer,
        batch_size=arguments.batch_size,
        assets=arguments.assets,
        detector=arguments.detector,
    )
    if animator.about:
        sys.stdout.write(f"{in_flags(animator.about)}\n")
        sys.stdout.flush()
    print_notes(animator.notes)
    return animator


def translate_upstream_flags(argv: Sequence[str]) -> list[str]:
    """Translate a command line with upstream's flags to ours.

    ``--source_image_pth`` and ``--driving_video_pth`` become the two positional arguments, ``--cpu`` becomes
    ``--device cpu``. ``--config`` is dropped, since our checkpoints contain their sizes, and so is
    ``--use_detection``, since faces are always detected.
    """
    if not argv or argv[0] not in UPSTREAM_COMMANDS:
        return list(argv)
    positionals: dict[int, str] = {}
    words: list[str] = []
    rest = iter(argv[1:])
    for word in rest:
        name, equals, value = word.partition("=")
        position = next((i for i, names in enumerate(UPSTREAM_POSITIONALS) if name in names), None)
        if position is not None:
            positionals[position] = value if equals else next(rest, "")
        elif name == "--config":
            _ = value if equals else next(rest, "")
        elif name == "--use_detection":
            continue
        elif name == "--cpu":
            words += ["--device", "cpu"]
        else:
            words.append(UPSTREAM.get(name, name) + equals + value)
    return [argv[0], *(positionals[i] for i in sorted(positionals)), *words]


if TYPE_CHECKING:
    from safa.inference.video_output import RenderedVideo, SavedVideo


def print_notes(notes: Iterable[str]) -> None:
    """Write one line for each thing that was guessed or converted."""
    for note in notes:
        sys.stderr.write(f"note: {printable(in_flags(note))}\n")


def write_video_file(video: RenderedVideo, output: Path, grid: Path | None = None) -> SavedVideo:
    """Write the video, with a progress line on a terminal.

    Raises:
        UserError: as ``RenderedVideo.save``.
    """
    progress = Progress(TerminalLine(), video.count, "frames")
    try:
        saved = video.save(output, grid, lambda _: progress.add(1, 1))
    finally:
        progress.close()
    print_notes(saved.notes)
    return saved
