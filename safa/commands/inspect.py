"""``safa inspect``: what is in a data set."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from safa.batching import batched
from safa.messages import count

if TYPE_CHECKING:
    from safa.data.clip_store import ClipInfo, ClipStore
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
        "dataset", type=Path, metavar="DATASET", help="run folder of pipelines.preprocess, or its clips/"
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

    folder = arguments.dataset / "clips" if (arguments.dataset / "clips").is_dir() else arguments.dataset
    store = ClipStore(folder)
    for split in sorted({clip.split for clip in store.index}):
        _print_split(store, split)
    _print_quarantine(folder.parent / "quarantine")
    if arguments.output:
        _write_sheet(store, arguments.output, arguments.faces)
        sys.stdout.write(f"wrote {arguments.output}\n")
    return 0


def _print_split(store: ClipStore, split: str) -> None:
    clips = [clip for clip in store.index if clip.split == split]
    frames = np.array([clip.n_frames for clip in clips])
    seconds = sum(clip.n_frames / clip.fps for clip in clips)
    num_without = sum(int(np.isnan(store.landmarks(clip.clip_id)).any((1, 2)).sum()) for clip in clips)
    people, videos = ({getattr(clip, key) for clip in clips} for key in ("person_id", "video_id"))
    sizes = Counter(f"{clip.width} x {clip.height}" for clip in clips)
    sys.stdout.write(
        f"{split}: {count(len(clips), 'clip')} of {count(len(people), 'person', 'people')} "
        f"in {count(len(videos), 'video')}\n"
        f"  frames     {frames.sum():,} ({seconds / 60:.1f} minutes); "
        f"per clip {frames.min()} to {frames.max()}, median {np.median(frames):g}\n"
        f"  no face    {num_without:,} of them ({num_without / frames.sum():.1%})\n"
        f"  size, px   {_counted(sizes)}\n"
        f"  fps        {_counted(Counter(f'{clip.fps:g}' for clip in clips))}\n"
    )


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{value} ({count(number, 'clip')})" for value, number in counter.most_common(4))


def _print_quarantine(folder: Path) -> None:
    import pyarrow.parquet as pq

    codes: Counter[str] = Counter()
    for path in sorted(folder.glob("*.parquet")):
        codes.update(pq.read_table(path, columns=["code"])["code"].to_pylist())
    if codes:
        reasons = ", ".join(f"{number} {code}" for code, number in codes.most_common())
        sys.stdout.write(f"quarantine: {count(codes.total(), 'clip')} ({reasons})\n")


def _write_sheet(store: ClipStore, path: Path, num_clips: int) -> None:
    """Draw one frame of each of ``num_clips`` clips, spread over the data set, with its landmarks."""
    from PIL import Image

    from safa.errors import UserError
    from safa.visualize.images import stacked
    from safa.visualize.panels import GAP, Panel, captioned

    if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise UserError("unsupported format; use .jpg or .png", str(path))
    clips = store.index
    chosen = [clips[i] for i in np.unique(np.linspace(0, len(clips) - 1, max(1, num_clips)).astype(int))]
    columns = min(8, len(chosen))
    panels = [Panel(f"{clip.person_id} ({clip.split})", _face(store, clip)) for clip in chosen]
    panels += [Panel("", np.zeros_like(panels[0].image))] * (-len(panels) % columns)
    rows = [captioned(row, PANEL) for row in batched(panels, columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(stacked(rows, GAP)).save(path)


def _face(store: ClipStore, clip: ClipInfo) -> RgbImage:
    from safa.visualize.images import resized
    from safa.visualize.overlays import ESTIMATED, with_landmarks

    middle = clip.n_frames // 2
    frame = store.frames(clip.clip_id, [middle])[0]
    points = store.landmarks(clip.clip_id)[middle]
    return resized(with_landmarks(frame, [(points, ESTIMATED)], PANEL), (PANEL, PANEL))
