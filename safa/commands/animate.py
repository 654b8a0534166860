"""``safa animate``: a photo takes on the motion of a video."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

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
from safa.decimals import whole
from safa.messages import count

LARGE_ENOUGH = 256  # px, side of results that need no word about enlarging them
CAMERA_FRAMES = 250  # unless --max-frames is given, since a camera never ends by itself


def add_parser(subparsers: Any) -> None:
    """Add ``safa animate`` to the command line."""
    parser = subparsers.add_parser(
        "animate",
        help="animate the face in a photo with the motion of a video",
        description="The face is found and cropped in both inputs; landmarks beside a file "
        "(FILE.landmarks.npy) are used first. The result keeps the video's frame rate and sound.",
    )
    parser.add_argument("source", help="photo of the face to animate")
    parser.add_argument(
        "driving", help="what drives it: a video, GIF, folder of images, or a camera's number"
    )
    add_model_flags(parser)
    motion = parser.add_argument_group("motion")
    motion.add_argument(
        "--relative", action="store_true", help="transfer changes of pose, not the pose itself"
    )
    motion.add_argument(
        "--adapt-scale", action="store_true", help="with --relative: scale the motion by the size of the face"
    )
    start = motion.add_mutually_exclusive_group()
    start.add_argument(
        "--find-best-frame",
        action="store_true",
        help="with --relative: measure motion from the frame most like the photo instead of the first that "
        "shows a face",
    )
    start.add_argument(
        "--best-frame",
        type=int,
        metavar="N",
        help="with --relative: measure motion from frame N (the first is 0)",
    )
    motion.add_argument(
        "--with-eye", action="store_true", help="take the eyes, too, from the photo's texture"
    )
    crop = parser.add_argument_group("crop")
    add_no_crop(crop)
    add_face(crop)
    crop.add_argument("--paste-back", action="store_true", help="paste the result back into the whole photo")
    output = add_video_flags(parser)
    output.add_argument("--fps", type=float, help="read the video at this frame rate (default: its own)")
    output.add_argument(
        "--size",
        type=int,
        metavar="N",
        help="make results of N x N px: enlarged, with the photo's details where the model shows its pixels",
    )
    output.add_argument("--no-sound", action="store_true", help="write no sound")
    parser.set_defaults(run=_animate)


def _animate(arguments: argparse.Namespace) -> int:
    import dataclasses

    from safa.inference.options import check_animate_options, check_max_seconds, check_size
    from safa.inference.video_output import check_outputs

    options: dict[str, Any] = {
        "relative": arguments.relative,
        "adapt_scale": arguments.adapt_scale,
        "best_frame": "find" if arguments.find_best_frame else arguments.best_frame,
        "fps": arguments.fps,
    }
    check_animate_options(**options, max_frames=arguments.max_frames)
    check_size(arguments.size, paste_back=arguments.paste_back)
    check_max_seconds(arguments.max_seconds)
    inputs = check_inputs(arguments.source, arguments.driving)
    check_outputs(arguments.output, arguments.grid, inputs)
    animator = load_animator_from_flags(arguments)
    is_camera = whole(arguments.driving) is not None and not Path(arguments.driving).exists()
    video = animator.animate(
        arguments.source,
        arguments.driving,
        **options,
        with_eyes=arguments.with_eye,
        crop=not arguments.no_crop,
        face=arguments.face,
        driving_face=arguments.driving_face,
        paste_back=arguments.paste_back,
        size=arguments.size,
        side_by_side=arguments.side_by_side,
        max_seconds=arguments.max_seconds,
        max_frames=arguments.max_frames or (CAMERA_FRAMES if is_camera else None),
    )
    print_notes(video.notes)
    if arguments.no_sound:
        video = dataclasses.replace(video, sound=None)
    saved = write_video_file(video, arguments.output, arguments.grid)
    hint = ""
    if arguments.size is None and not arguments.paste_back and animator.size < LARGE_ENOUGH:
        hint = f" (--size {LARGE_ENOUGH} enlarges them)"
    line = f"{count(saved.n_frames, 'frame')} at {video.fps:g} fps, {saved.width} x {saved.height} px{hint}"
    sys.stdout.write(f"wrote {arguments.output}: {line}\n")
    if arguments.grid:
        sys.stdout.write(f"wrote {arguments.grid}\n")
    return 0
