"""``safa swap``: the face of a photo in every frame of a video."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from safa.commands.flags import (
    add_face,
    add_model_flags,
    add_no_crop,
    add_video_flags,
    check_inputs,
    load_animator_from_flags,
    print_notes,
    write_video_file,
)
from safa.messages import count

if TYPE_CHECKING:
    import torch

    from safa.inference.swap_mask import SwapMask
    from safa.models.tdmm import Tdmm

OUTLINE_NOTE = (
    "no --parser: using the outline of the 3D head as the mask "
    "(`safa assets check` says where to get BiSeNet weights)"
)


def add_parser(subparsers: Any) -> None:
    """Add ``safa swap`` to the command line."""
    parser = subparsers.add_parser(
        "swap",
        help="put the face in a photo into a video",
        description="The face is found in every frame and pasted back with soft edges. Frames without a face "
        "pass through unchanged and are counted.",
    )
    parser.add_argument("source", help="photo of the face to put in")
    parser.add_argument("driving", help="video, GIF or folder of images that it goes into")
    add_model_flags(parser)
    mask = parser.add_argument_group("mask")
    mask.add_argument("--parser", metavar="FILE", help="weights of the face parser (BiSeNet)")
    mask.add_argument(
        "--classes",
        metavar="NAMES",
        help="with --parser: e.g. skin,nose,lips,eyes,brows (default: the whole face with ears and neck)",
    )
    mask.add_argument("--hard", action="store_true", help="use a mask of 0 and 1 instead of soft edges")
    mask.add_argument(
        "--source-shape",
        action="store_true",
        help="draw the photo's head shape, nearer to that person, instead of the video's, which fits",
    )
    crop = parser.add_argument_group("crop")
    add_no_crop(crop)
    add_face(crop)
    add_video_flags(parser)
    parser.set_defaults(run=_swap)


def _swap(arguments: argparse.Namespace) -> int:
    from safa.errors import UserError
    from safa.inference.options import check_max_frames, check_max_seconds
    from safa.inference.video_output import check_outputs

    if arguments.classes and not arguments.parser:
        raise UserError(
            "--classes needs --parser", "safa swap", "Add --parser with the face parser's weights."
        )
    check_max_frames(arguments.max_frames)
    check_max_seconds(arguments.max_seconds)
    inputs = check_inputs(arguments.source, arguments.driving)
    check_outputs(arguments.output, arguments.grid, inputs)
    animator = load_animator_from_flags(arguments)
    video = animator.swap(
        arguments.source,
        arguments.driving,
        mask=_mask(arguments, animator.device, animator.tdmm),
        source_shape=arguments.source_shape,
        crop=not arguments.no_crop,
        face=arguments.face,
        driving_face=arguments.driving_face,
        side_by_side=arguments.side_by_side,
        max_frames=arguments.max_frames,
        max_seconds=arguments.max_seconds,
    )
    print_notes(video.notes + (() if arguments.parser else (OUTLINE_NOTE,)))
    saved = write_video_file(video, arguments.output, arguments.grid)
    unchanged = f", {saved.unchanged} of them unchanged (no face)" if saved.unchanged else ""
    frames, size = count(saved.n_frames, "frame"), f"{saved.width} x {saved.height} px"
    sys.stdout.write(f"wrote {arguments.output}: {frames} at {video.fps:g} fps, {size}{unchanged}\n")
    return 0


def _mask(arguments: argparse.Namespace, device: torch.device, tdmm: Tdmm) -> SwapMask:
    from safa.config.inference import SwapConfig
    from safa.files import location
    from safa.inference.swap_mask import load_mask, parse_classes

    classes = parse_classes(arguments.classes) if arguments.classes else None
    weights = location(arguments.parser) if arguments.parser else None
    return load_mask(SwapConfig(weights=weights, classes=classes, hard=arguments.hard), tdmm, device)
