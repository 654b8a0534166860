"""``safa reconstruct3d``: photos and videos to 3D heads."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safa.commands.flags import add_model_flags, load_animator_from_flags
from safa.commands.progress import Progress, say_notes

if TYPE_CHECKING:
    from safa.inference.face_animator import FaceAnimator


def add_parser(subparsers: Any) -> None:
    """Add ``safa reconstruct3d`` to the command line."""
    parser = subparsers.add_parser(
        "reconstruct3d",
        help="3D heads from photos and videos",
        description="For each face a folder: head.obj with its material and texture, landmarks.json, "
        "code.json, overlay.png, turntable.mp4. For a video the head of its first frame with a face, and "
        "heads.parquet with the parameters, landmarks and vertices of every frame.",
    )
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="photos, folders or videos")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the folder to write")
    add_model_flags(parser)
    parser.add_argument(
        "--no-crop",
        action="store_true",
        help="inputs are cut around the face already; take the centre square",
    )
    parser.add_argument("--max-frames", type=int, metavar="N", help="of a video: stop after N frames")
    parser.set_defaults(run=_reconstruct)


def _reconstruct(arguments: argparse.Namespace) -> int:
    from safa.errors import UserError
    from safa.inference.inputs import PHOTO_ENDINGS

    animator = load_animator_from_flags(arguments)
    done = refused = 0
    for path, name in _files(arguments.inputs):
        folder = arguments.output / name
        try:
            if path.suffix.lower() in PHOTO_ENDINGS:
                _photo(animator, path, folder, crop=not arguments.no_crop)
            else:
                _video(animator, path, folder, arguments.max_frames, crop=not arguments.no_crop)
            done += 1
        except UserError as error:  # one bad input must not cost the others
            sys.stderr.write(f"skipped: {error}\n")
            refused += 1
    sys.stdout.write(f"{done} of {done + refused} inputs reconstructed in {arguments.output}\n")
    if not done:
        raise UserError("nothing could be reconstructed", "safa reconstruct3d")
    return 0


def _files(inputs: list[Path]) -> Iterator[tuple[Path, str]]:
    """Every file once, with a folder name of its own."""
    from safa.errors import UserError

    used: set[str] = set()
    for given in inputs:
        paths = sorted(p for p in given.iterdir() if _is_input(p)) if given.is_dir() else [given]
        if not paths:
            raise UserError("no photos or videos in this folder", str(given))
        for path in paths:
            name, number = path.stem, 2
            while name in used:
                name, number = f"{path.stem}-{number}", number + 1
            used.add(name)
            yield path, name


def _is_input(path: Path) -> bool:
    from safa.inference.inputs import PHOTO_ENDINGS

    videos = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")
    return path.suffix.lower() in (*PHOTO_ENDINGS, *videos)


def _photo(animator: FaceAnimator, path: Path, folder: Path, *, crop: bool) -> None:
    heads = animator.meshes(path, crop=crop)
    for number, head in enumerate(heads, start=1):
        target = folder if len(heads) == 1 else folder / f"face-{number}"
        head.save(target)
        sys.stdout.write(
            f"wrote {target}: {len(head.mesh.vertices)} vertices, {len(head.mesh.faces)} faces\n"
        )


def _video(animator: FaceAnimator, path: Path, folder: Path, limit: int | None, *, crop: bool) -> None:
    from safa.inference.face_crop import crop_face
    from safa.inference.inputs import open_frame_source
    from safa.inference.mesh import MeshTable, reconstruct_heads

    frame_source = open_frame_source(path).limited(limit)
    tracked = animator.track_video(frame_source, crop=crop)
    say_notes(tracked.notes)
    first = next((item for item in tracked.open() if item.seen), None)
    assert first is not None, "a video without a face has been refused"
    animator.head(first.frame, first.crop_box).save(folder)
    crops = (crop_face(item.frame, item.crop_box, animator.size) for item in tracked.open())
    progress, count = Progress(frame_source.count), 0
    with MeshTable(folder / "heads.parquet") as table:
        for batch in animator.in_precision(reconstruct_heads(animator.engine, crops)):
            table.add(batch)
            count += len(batch)
            progress(count)
    progress.close()
    sys.stdout.write(f"wrote {folder}: {count} frames\n")
