"""``safa swap``: the face of a photo in every frame of a video."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safa.commands.flags import add_model_flags, add_no_crop, add_video_flags, load_animator_from_flags
from safa.commands.progress import say_notes, write_video_file

if TYPE_CHECKING:
    import torch

    from safa.inference.swap_mask import SwapMask
    from safa.models.tdmm import Tdmm

OUTLINE = (
    "no --parser, so the outline of the 3D head says where the face goes; "
    "`safa assets check` tells where BiSeNet weights are offered"
)


def add_parser(subparsers: Any) -> None:
    """Add ``safa swap`` to the command line."""
    parser = subparsers.add_parser(
        "swap",
        help="put the face in a photo into a video",
        description="The face is found in every frame and put back with soft edges. Frames that show no face "
        "go through untouched and are counted.",
    )
    parser.add_argument("source", help="photo of the face to put in")
    parser.add_argument("driving", help="video, gif or folder of pictures that it goes into")
    add_model_flags(parser)
    mask = parser.add_argument_group("what is taken from the photo")
    mask.add_argument("--parser", type=Path, metavar="FILE", help="weights of the face parser (BiSeNet)")
    mask.add_argument(
        "--classes",
        metavar="NAMES",
        help="with --parser: e.g. skin,nose,lips,eyes,brows (default: the whole face with ears and neck)",
    )
    mask.add_argument("--hard", action="store_true", help="a mask of 0 and 1 instead of soft edges")
    framing = parser.add_argument_group("framing").add_mutually_exclusive_group()
    framing.add_argument(
        "--use-detection",
        action="store_true",
        help="stop if faces can only be guessed, for want of a face tracker",
    )
    add_no_crop(framing)
    add_video_flags(parser)
    parser.set_defaults(run=_swap)


def _swap(arguments: argparse.Namespace) -> int:
    from safa.errors import UserError
    from safa.inference.face_tracking import NO_DETECTOR
    from safa.inference.video_output import check_container

    if arguments.classes and not arguments.parser:
        raise UserError("--classes belongs to --parser", "safa swap", "Name the face parser's weights.")
    check_container(arguments.output)
    animator = load_animator_from_flags(arguments)
    video = animator.swap(
        arguments.source,
        arguments.driving,
        mask=_mask(arguments, animator.device, animator.engine.model.tdmm),
        crop=not arguments.no_crop,
        max_frames=arguments.max_frames,
    )
    guessed = [note for note in video.notes if note.endswith(NO_DETECTOR)]
    if arguments.use_detection and guessed:
        raise UserError(
            "no face detector here",
            "--use-detection",
            "`safa doctor` tells how to get one; or leave the flag.",
        )
    say_notes(video.notes + (() if arguments.parser else (OUTLINE,)))
    saved = write_video_file(video, arguments.output, arguments.grid)
    untouched = f", {saved.untouched} of them without a face and untouched" if saved.untouched else ""
    sys.stdout.write(f"wrote {arguments.output}: {saved.frames} frames at {video.fps:g} fps{untouched}\n")
    return 0


def _mask(arguments: argparse.Namespace, device: torch.device, tdmm: Tdmm) -> SwapMask:
    from safa.config.inference import SwapConfig
    from safa.inference.swap_mask import load_mask, parse_classes

    classes = parse_classes(arguments.classes) if arguments.classes else None
    return load_mask(SwapConfig(weights=arguments.parser, classes=classes, hard=arguments.hard), tdmm, device)
