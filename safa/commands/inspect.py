"""``safa inspect``: what is in a data set."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from safa.batching import batched
from safa.errors import printable
from safa.messages import count

if TYPE_CHECKING:
    from safa.data.clip_store import ClipInfo, ClipStore
    from safa.files import Location
    from safa.visualize.images import RgbImage


PANEL = 144  # px, side of a clip on the contact sheet


def add_parser(subparsers: Any) -> None:
    """Add ``safa inspect`` to the command line."""
    parser = subparsers.add_parser(
        "inspect",
        help="show statistics of a data set, draw a contact sheet",
        description="Reads what pipelines.preprocess wrote.",
    )
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="run folder of pipelines.preprocess, or its clips/; a path or a URI",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write a contact sheet (.jpg or .png)"
    )
    parser.add_argument(
        "--faces", type=int, default=48, metavar="N", help="clips on the contact sheet (default: 48)"
    )
    parser.set_defaults(run=_inspect)


def _inspect(arguments: argparse.Namespace) -> int:
    from safa.data.clip_store import ClipStore
    from safa.data.dataset_files import clips_folder
    from safa.files import join
    from safa.files import split as split_location

    if arguments.output:
        _check_sheet(arguments.output)
    folder = clips_folder(arguments.dataset)
    store = ClipStore(folder)
    for split in sorted(store.column("split").unique().to_pylist()):
        _print_split(store, split)
    _print_columns(store)
    _print_quarantine(join(split_location(folder)[0], "quarantine"))
    if arguments.output:
        _write_sheet(store, arguments.output, arguments.faces)
        sys.stdout.write(f"wrote {arguments.output}\n")
    return 0


def _print_columns(store: ClipStore) -> None:
    """Columns that were added later, and how many clips have them."""
    from safa.data.columns import column_kind, column_names, read_column

    for name in column_names(store.folder):
        clips = len(read_column(store.folder, name).table)
        kind = column_kind(store.folder, name)
        sys.stdout.write(f"column {name}: {kind}, of {clips} of {count(len(store), 'clip')}\n")


def _print_split(store: ClipStore, split: str) -> None:
    clips = list(store.clips(split))
    frames = np.array([clip.n_frames for clip in clips])
    seconds = sum(clip.n_frames / clip.fps for clip in clips)
    num_without = sum(int((~store.has_face(clip.number)).sum()) for clip in clips)
    people, videos = ({getattr(clip, key) for clip in clips} for key in ("person_id", "video_id"))
    sizes = Counter(f"{clip.width} x {clip.height}" for clip in clips)
    sys.stdout.write(
        f"{printable(split)}: {count(len(clips), 'clip')} of {count(len(people), 'person', 'people')} "
        f"in {count(len(videos), 'video')}\n"
        f"  frames     {frames.sum():,} ({seconds / 60:.1f} minutes); "
        f"per clip {frames.min()} to {frames.max()}, median {np.median(frames):g}\n"
        f"  no face    {num_without:,} of them ({num_without / frames.sum():.1%})\n"
        f"  size, px   {_counted(sizes)}\n"
        f"  fps        {_counted(Counter(f'{clip.fps:g}' for clip in clips))}\n"
    )


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{value} ({count(number, 'clip')})" for value, number in counter.most_common(4))


def _print_quarantine(folder: Location) -> None:
    from safa.files import entries, exists, local_file
    from safa.tables import read_table

    codes: Counter[str] = Counter()
    for entry in sorted(entries(folder)) if exists(folder) else ():
        if entry.suffix == ".parquet":
            with local_file(entry.location) as path:
                codes.update(map(str, read_table(path, ["code"])["code"].to_pylist()))
    if codes:
        reasons = ", ".join(f"{number} {code}" for code, number in codes.most_common())
        sys.stdout.write(f"quarantine: {count(codes.total(), 'clip')} ({printable(reasons)})\n")


def _check_sheet(path: Path) -> None:
    from safa.errors import UserError
    from safa.files import check_output

    if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise UserError("unsupported format", str(path), "Use .jpg or .png.")
    check_output(path)


def _write_sheet(store: ClipStore, path: Path, num_clips: int) -> None:
    """Draw one frame of each of ``num_clips`` clips, spread over the data set, with its landmarks."""
    from PIL import Image

    from safa.visualize.images import BACKGROUND, stacked
    from safa.visualize.panels import GAP, Panel, captioned

    spread = np.linspace(0, len(store) - 1, max(1, num_clips)).astype(int)
    chosen = [store.info(int(number)) for number in np.unique(spread)]
    columns = min(8, len(chosen))
    panels = [Panel(f"{clip.person_id} ({clip.split})", _face(store, clip)) for clip in chosen]
    panels += [Panel("", np.full_like(panels[0].image, BACKGROUND))] * (-len(panels) % columns)
    rows = [captioned(row, PANEL) for row in batched(panels, columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(stacked(rows, GAP)).save(path)


def _face(store: ClipStore, clip: ClipInfo) -> RgbImage:
    from safa.visualize.images import resized
    from safa.visualize.overlays import ESTIMATED, with_landmarks

    middle = clip.n_frames // 2
    (frame,), (points,) = store.frames(clip.number, [middle]), store.landmarks(clip.number, [middle])
    return resized(with_landmarks(frame, [(points, ESTIMATED)], PANEL), (PANEL, PANEL))
