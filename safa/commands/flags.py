"""Flags that commands share, and upstream's names for them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safa.inference.face_animator import FaceAnimator

# The names that the authors' scripts give to flags, and ours.
UPSTREAM = {
    "--adapt_scale": "--adapt-scale",
    "--find_best_frame": "--find-best-frame",
    "--best_frame": "--best-frame",
    "--with_eye": "--with-eye",
    "--result_video_pth": "--output",
    "--result_video": "--output",
    "--result_vis_video_pth": "--grid",
    "--use_detection": "--use-detection",
    "--swap_index": "--classes",
}
UPSTREAM_POSITIONALS = ("--source_image_pth", "--source_image"), ("--driving_video_pth", "--driving_video")
UPSTREAM_COMMANDS = ("animate", "swap")


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """``--checkpoint``, ``--device`` and what else makes a ``FaceAnimator``; ``load_animator_from_flags`` reads them."""
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        help="model: a run's folder, a converted one, or a released file",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="of convolutions (default: auto, which is float32)",
    )
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="frames at once (default: 8)")
    parser.add_argument(
        "--assets",
        type=Path,
        default=Path("assets"),
        metavar="DIR",
        help="where a face detector's weights are (default: assets/)",
    )


def add_video_flags(parser: argparse.ArgumentParser) -> Any:
    """What a command that writes a video shares: ``-o``, ``--grid``, ``--max-frames``. Returns the group."""
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--output", type=Path, required=True, help="the .mp4, .mov or .mkv to write")
    group.add_argument("--grid", type=Path, metavar="FILE", help="a second video: what the model did")
    group.add_argument("--max-frames", type=int, metavar="N", help="stop after N frames")
    return group


def add_no_crop(group: Any) -> None:
    """``--no-crop``, to a group of flags about framing."""
    group.add_argument(
        "--no-crop",
        action="store_true",
        help="inputs are cut around the face already; take the centre square",
    )


def load_animator_from_flags(arguments: argparse.Namespace) -> FaceAnimator:
    """The model that the flags of ``add_model_flags`` describe."""
    from safa.inference.loading import open_animator

    return open_animator(
        arguments.checkpoint,
        device=arguments.device,
        precision=arguments.precision,
        batch_size=arguments.batch_size,
        assets=arguments.assets,
    )


def translate_upstream_flags(argv: Sequence[str]) -> list[str]:
    """A command line with upstream's flag names brought to ours.

    ``--source_image_pth`` and ``--driving_video_pth`` become the two positional arguments, ``--cpu`` becomes
    ``--device cpu``, and ``--config`` is left out, since our checkpoints know their sizes.
    """
    if not argv or argv[0] not in UPSTREAM_COMMANDS:
        return list(argv)
    positionals: dict[int, str] = {}
    words: list[str] = []
    rest = iter(argv[1:])
    for word in rest:
        name, equals, value = word.partition("=")
        place = next((i for i, names in enumerate(UPSTREAM_POSITIONALS) if name in names), None)
        if place is not None:
            positionals[place] = value if equals else next(rest, "")
        elif name == "--config":
            _ = value if equals else next(rest, "")
        elif name == "--cpu":
            words += ["--device", "cpu"]
        else:
            words.append(UPSTREAM.get(name, name) + equals + value)
    return [argv[0], *(positionals[i] for i in sorted(positionals)), *words]
