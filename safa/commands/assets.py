"""``safa assets``: files of others that the program can use: listed, downloaded, converted."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from safa.messages import count


def add_parser(subparsers: Any) -> None:
    """Add ``safa assets`` to the command line."""
    parser = subparsers.add_parser("assets", help="list, download and convert files of others")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    check = actions.add_parser(
        "check", help="list every optional asset with purpose, licence, owner, and whether it is there"
    )
    check.add_argument(
        "--folder", type=Path, help="where you keep them (default: the folders that `safa doctor` lists)"
    )
    check.set_defaults(run=_check)

    download = actions.add_parser(
        "download",
        help="download files of others that have a public address",
        description="Shows each file's licence; --yes accepts it. A download that broke off is continued. "
        "Nothing is ever downloaded without this command.",
    )
    download.add_argument("names", nargs="+", metavar="NAME", help="a file that `safa assets check` lists")
    download.add_argument("--yes", action="store_true", help="accept the licences")
    download.add_argument(
        "--folder", type=Path, help="where to put them (default: the user's folder of assets)"
    )
    download.set_defaults(run=_download)

    convert = actions.add_parser(
        "convert",
        help="convert FLAME and DECA files to one safe .npz",
        description="No code inside the files is run, and every shape is checked.",
    )
    convert.add_argument("--flame", type=Path, required=True, help="generic_model.pkl of FLAME 2020 or 2023")
    convert.add_argument("--template", type=Path, required=True, help="head_template.obj of DECA")
    convert.add_argument("--landmarks", type=Path, required=True, help="landmark_embedding.npy of DECA")
    convert.add_argument(
        "--masks", type=Path, required=True, help="folder with uv_face_mask.png and uv_face_eye_mask.png"
    )
    convert.add_argument("-o", "--output", type=Path, required=True, help="the .npz to write")
    convert.set_defaults(run=_convert)


def _check(arguments: argparse.Namespace) -> int:
    from safa.asset_catalogue import check_assets
    from safa.asset_folders import asset_folders
    from safa.files import absolute

    for status in check_assets(asset_folders(arguments.folder)):
        asset = status.asset
        sys.stdout.write(
            f"{status.state:<12} {absolute(status.path)}\n"
            f"             purpose  {asset.purpose}\n"
            f"             licence  {asset.licence}\n"
            f"             owner    {asset.owner}\n"
            f"             sha256   {asset.sha256 + '...' if asset.sha256 else 'not published'}\n"
            f"             address  {asset.url or 'none'}\n"
        )
    sys.stdout.write(
        "The built-in head needs none of these, and `make demo` dlib's alone, if they are there. "
        "`safa assets download NAME` gets those that have an address.\n"
    )
    return 0


def _download(arguments: argparse.Namespace) -> int:
    from safa.asset_catalogue import CATALOGUE, file_sha256
    from safa.asset_download import download_asset
    from safa.asset_folders import user_folder
    from safa.errors import UserError
    from safa.messages import TerminalLine

    known = {asset.file: asset for asset in CATALOGUE}
    for name in arguments.names:
        if name not in known:
            raise UserError("is not a file that is known", name, "`safa assets check` lists them.")
    for asset in (known[name] for name in arguments.names):
        sys.stdout.write(f"{asset.file}: {asset.purpose}\n  licence: {asset.licence} ({asset.owner})\n")
        if not arguments.yes:
            raise UserError("its licence is not accepted yet", asset.file, "Read it, and add --yes.")
        line = TerminalLine()

        def report(done: int, total: int | None, name: str = asset.file, line: TerminalLine = line) -> None:
            line.show(f"{name}: {done / 1e6:.1f} of {total / 1e6 if total else float('nan'):.1f} MB")

        path = download_asset(asset, arguments.folder or user_folder(), report)
        line.close()
        sys.stdout.write(f"wrote {path.absolute()}\n  sha256: {file_sha256(path)}\n")
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from safa.head.flame_files import FlameFiles, read_head_assets

    files = FlameFiles(arguments.flame, arguments.template, arguments.landmarks, arguments.masks)
    assets = read_head_assets(files)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    assets.save(arguments.output)
    sys.stdout.write(
        f"wrote {arguments.output}: {count(len(assets.v_template), 'vertex', 'vertices')}, "
        f"{count(len(assets.faces), 'face')}. "
        f"Use it with `--set model.head.assets={arguments.output}`.\n"
    )
    return 0
