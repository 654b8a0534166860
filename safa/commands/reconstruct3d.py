"""``safa reconstruct3d``: 3D heads from photos and videos."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safa.commands.flags import (
    add_face,
    add_model_flags,
    add_no_crop,
    error_in_flags,
    load_animator_from_flags,
    print_notes,
)
from safa.media_types import is_photo, is_video
from safa.messages import Progress, TerminalLine, count

if TYPE_CHECKING:
    from safa.inference.face_animator import FaceAnimator
    from safa.inference.mesh import Head


def add_parser(subparsers: Any) -> None:
    """Add ``safa reconstruct3d`` to the command line."""
    parser = subparsers.add_parser(
        "reconstruct3d",
        help="reconstruct 3D heads from photos and videos",
        description="Writes a folder for each face: head.obj with its material and texture, head.ply, "
        "head.glb, landmarks and code as .json and .npz, overlay.png, depth.png, normals.png, turntable.mp4. "
        "For a video these show its first frame with a face, and heads.parquet has the parameters, landmarks "
        "and vertices of every frame.",
    )
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="photos, folders or videos")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the folder to write")
    add_model_flags(parser)
    add_no_crop(parser)
    add_face(parser, driving=False)
    parser.add_argument("--max-frames", type=int, metavar="N", help="stop after N frames of a video")
    parser.set_defaults(run=_reconstruct)


def _reconstruct(arguments: argparse.Namespace) -> int:
    from safa.errors import UserError
    from safa.files import check_folder

    check_folder(arguments.output)
    animator = load_animator_from_flags(arguments)
    done = skipped = 0
    for path, name in _files(arguments.inputs):
        folder = arguments.output / name
        try:
            if _is_still(path):
                _photo(animator, path, folder, arguments)
            else:
                _video(animator, path, folder, arguments)
            done += 1
        except UserError as error:  # one bad input must not cost the others
            sys.stderr.write(f"skipped: {error_in_flags(error)}\n")
            skipped += 1
    sys.stdout.write(f"reconstructed {done} of {count(done + skipped, 'input')} in {arguments.output}\n")
    if not done:
        raise UserError("no input could be reconstructed", "safa reconstruct3d", "The lines above say why.")
    return 0


def _files(inputs: list[Path]) -> Iterator[tuple[Path, str]]:
    """Yield every file with a folder name of its own."""
    from safa.errors import UserError

    used: set[str] = set()
    for entry in inputs:
        paths = sorted(path for path in entry.iterdir() if _is_input(path)) if entry.is_dir() else [entry]
        if not paths:
            raise UserError("no photos or videos in this folder", str(entry))
        for path in paths:
            stem = path.stem.strip(". ") or "input"  # "..." is the folder above in every system
            name, number = stem, 2
            while name in used:
                name, number = f"{stem}-{number}", number + 1
            used.add(name)
            yield path, name


def _is_input(path: Path) -> bool:
    return path.is_file() and (is_photo(path.name) or is_video(path.name))


def _is_still(path: Path) -> bool:
    """Whether it is a photo; a GIF, WebP or PNG can be either."""
    from safa.inference.inputs import moves

    return (is_photo(path.name) or path.suffix.lower() == ".gif") and not moves(path)


def _photo(animator: FaceAnimator, path: Path, folder: Path, arguments: argparse.Namespace) -> None:
    heads = animator.meshes(path, crop=not arguments.no_crop, face=arguments.face)
    sys.stderr.write(f"{path}: {count(len(heads), 'face')}; drawing the files of one takes some seconds\n")
    for number, head in enumerate(heads, start=1):
        target = folder if len(heads) == 1 else folder / f"face-{number}"
        head.save(target)
        sys.stdout.write(f"wrote {target}: {_size(head)}\n")


def _size(head: Head) -> str:
    mesh = head.mesh
    return f"{count(len(mesh.vertices), 'vertex', 'vertices')}, {count(len(mesh.faces), 'face')}"


def _video(animator: FaceAnimator, path: Path, folder: Path, arguments: argparse.Namespace) -> None:
    from safa.inference.face_crop import crop_face
    from safa.inference.inputs import open_frame_source
    from safa.inference.mesh import MeshTable, reconstruct_heads

    frame_source = open_frame_source(path).limited(arguments.max_frames)
    tracked = animator.track_video(frame_source, crop=not arguments.no_crop, face=arguments.face)
    print_notes(tracked.notes)
    first = next((item for item in tracked.open() if item.seen), None)
    assert first is not None, "track_video refuses a video without a face"
    animator.head(first.frame, first.crop_box).save(folder)
    crops = (crop_face(item.frame, item.crop_box, animator.size) for item in tracked.open())
    progress, n_frames = Progress(TerminalLine(), frame_source.count, "frames"), 0
    with MeshTable(folder / "heads.parquet") as table:
        for batch in reconstruct_heads(animator.runner, crops):
            table.add(batch)
            n_frames += len(batch)
            progress.add(len(batch), len(batch))
    progress.close()
    sys.stdout.write(f"wrote {folder}: {count(n_frames, 'frame')}\n")
