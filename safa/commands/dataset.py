"""``safa dataset``: verify, compact, convert and export what ``pipelines.preprocess`` wrote."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXIT_DAMAGED = 1


def add_parser(subparsers: Any) -> None:
    """Add ``safa dataset`` and its four subcommands to the command line."""
    parser = subparsers.add_parser("dataset", help="verify, compact, convert or export a data set")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    verify = commands.add_parser(
        "verify", help="read every byte range and compare it with the rows in the shards"
    )
    _add_dataset(verify)
    verify.set_defaults(run=_verify)
    compact = commands.add_parser(
        "compact", help="join small shards into larger ones; images stay byte for byte"
    )
    _add_dataset(compact)
    compact.add_argument(
        "--shard-mb", type=int, default=512, metavar="N", help="images in a shard, MiB (default: 512)"
    )
    compact.set_defaults(run=_compact)
    convert = commands.add_parser(
        "convert", help="copy a data set of the older format; images stay byte for byte"
    )
    convert.add_argument(
        "old", type=Path, metavar="OLD", help="clips/ of the older format (split=*/*.parquet)"
    )
    convert.add_argument("new", metavar="NEW", help="folder or URI of the new data set")
    convert.set_defaults(run=_convert)
    export = commands.add_parser("export", help="write clips as <split>/<clip id>.mp4, or as folders of PNGs")
    _add_dataset(export)
    export.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    export.add_argument("--format", choices=("mp4", "png"), default="mp4", help="(default: mp4)")
    export.add_argument("--split", metavar="NAME", help="clips of this split alone (default: all)")
    export.add_argument("--clips", type=int, metavar="N", help="the first N of them (default: all)")
    export.set_defaults(run=_export)


def _add_dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dataset", metavar="DATASET", help="run folder of preprocess or its clips/, a path or a URI"
    )


def _progress(noun: str) -> Callable[[int], None]:
    """Counts one item, with so many frames, each time it is called."""
    from safa.messages import Progress, TerminalLine

    progress = Progress(TerminalLine(), None, noun)
    return lambda n_frames: progress.add(1, n_frames)


def _verify(arguments: argparse.Namespace) -> int:
    from safa.data.columns import column_names, verify_column
    from safa.data.dataset_files import clips_folder, verify
    from safa.errors import printable

    folder = clips_folder(arguments.dataset)
    found, columns = verify(folder, _progress("clips")), column_names(folder)
    errors = [*found.errors, *(error for name in columns for error in verify_column(folder, name))]
    for error in errors:
        sys.stderr.write(f"damaged: {printable(error)}\n")
    for name in found.unreferenced:
        sys.stderr.write(f"not in the index, may be deleted: shards/{printable(name)}\n")
    sys.stdout.write(
        f"{found.clips} clips, {found.frames:,} frames, {found.n_bytes / 2**20:,.1f} MiB of images"
        f"{', columns ' + ', '.join(columns) if columns else ''}: "
        f"{f'{len(errors)} errors' if errors else 'no damage'}\n"
    )
    return EXIT_DAMAGED if errors else 0


def _compact(arguments: argparse.Namespace) -> int:
    from safa.data.dataset_files import clips_folder, compact
    from safa.errors import UserError

    if arguments.shard_mb < 1:
        raise UserError(f"{arguments.shard_mb} is too small", "--shard-mb", "Give 1 or more.")
    shard_bytes = arguments.shard_mb * 2**20
    before, after = compact(clips_folder(arguments.dataset), shard_bytes, _progress("clips"))
    sys.stdout.write(f"{before} shards before, {after} now\n")
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from safa.data.dataset_files import convert
    from safa.files import location

    old = arguments.old / "clips" if (arguments.old / "clips").is_dir() else arguments.old
    count = convert(old, location(arguments.new), progress=_progress("clips"))
    sys.stdout.write(f"{count} clips in {arguments.new}\n")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from safa.data.clip_store import ClipStore
    from safa.data.dataset_files import clips_folder, export
    from safa.errors import UserError

    store = ClipStore(clips_folder(arguments.dataset))
    numbers = store.numbers(arguments.split)[: arguments.clips]
    if not len(numbers):
        raise UserError(
            f"no clips of split {arguments.split!r}", arguments.dataset, "Leave --split out for all."
        )
    progress = _progress("clips")
    for number in numbers:
        export(store, int(number), arguments.output, arguments.format)
        progress(store.n_frames(int(number)))
    sys.stdout.write(f"{len(numbers)} clips in {arguments.output}\n")
    return 0
