"""``safa animate``: one photo, one video, one result."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safa.data.video import Frame

COMMENT = "synthetic: face animation by SAFA"  # stored in every file that is made


def add_parser(subparsers: Any) -> None:
    """Add ``safa animate`` to the command line."""
    parser = subparsers.add_parser(
        "animate",
        help="animate the face in a photo with the motion of a video",
        description="Both inputs should be cut around the face as in VoxCeleb; what is not square is cut to "
        "its middle square. The result keeps the driving video's frame rate.",
    )
    parser.add_argument("source", type=Path, help="photo of the face to animate")
    parser.add_argument("driving", type=Path, help="video whose motion it takes on")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the .mp4 to write")
    parser.add_argument("--checkpoint", type=Path, required=True, help="model folder: of a run, or converted")
    parser.add_argument(
        "--relative", action="store_true", help="take on changes of pose, not the pose itself"
    )
    parser.add_argument(
        "--adapt-scale", action="store_true", help="with --relative: fit the motion to face size"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--batch-size", type=int, default=8, help="driving frames at once (default: 8)")
    parser.set_defaults(run=_animate)


def _animate(arguments: argparse.Namespace) -> int:
    from safa.config.inference import TransferConfig
    from safa.data.video import DecodeError, probe, write_video
    from safa.errors import UserError
    from safa.inference.animator import Animator, predictions
    from safa.training.checkpoint import load_model

    if arguments.adapt_scale and not arguments.relative:
        raise UserError("--adapt-scale belongs to --relative", "safa animate", "Add --relative.")
    transfer = TransferConfig(
        mode="relative" if arguments.relative else "absolute", adapt_scale=arguments.adapt_scale
    )
    source_path, driving_path = arguments.source, arguments.driving
    model, _ = load_model(arguments.checkpoint)
    animator = Animator(model, _device(arguments.device), arguments.batch_size)
    source = animator.prepare(_square_photo(source_path, animator.size))
    try:
        fps = probe(driving_path).fps
        frames = animator.animate(source, _square_frames(driving_path, animator.size), transfer)
        count = write_video(arguments.output, predictions(frames), fps, comment=COMMENT)
    except DecodeError as error:
        raise UserError(str(error), "driving video", "Give a video that ffmpeg can read.") from None
    except ValueError as error:
        raise UserError(str(error), str(driving_path)) from None
    sys.stdout.write(f"wrote {arguments.output}: {count} frames at {fps:g} fps\n")
    return 0


def _square_photo(path: Path, size: int) -> Frame:
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    from safa.errors import UserError

    try:
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture).convert("RGB")
            return np.asarray(ImageOps.fit(upright, (size, size), Image.Resampling.LANCZOS))
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"not a readable photo ({error})", str(path), "Give a JPEG or PNG.") from None


def _square_frames(path: Path, size: int) -> Iterator[Frame]:
    from safa.data.crop import Box
    from safa.data.video import probe, read_frames

    info = probe(path)
    side = min(info.width, info.height)
    left, top = (info.width - side) // 2, (info.height - side) // 2
    return read_frames(path, box=Box(left, top, left + side, top + side), size=(size, size))


def _device(name: str) -> Any:
    import torch

    from safa.errors import UserError

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"no device named {name!r}", "--device", "Use auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("no CUDA device here", "--device", "Use auto or cpu.")
    return device
