"""``safa assets check`` and ``safa assets convert``: optional files of others that the program can use."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from safa.messages import count


def add_parser(subparsers: Any) -> None:
    """Add ``safa assets`` to the command line."""
    parser = subparsers.add_parser("assets", help="list optional assets, convert FLAME and DECA files")
    actions = parser.add_subparsers(metavar="ACTION", required=True)

    check = actions.add_parser(
        "check", help="list every optional asset with purpose, licence, owner, and whether it is there"
    )
    check.add_argument(
        "--folder", type=Path, default=Path("assets"), help="where you keep them (default: assets/)"
    )
    check.set_defaults(run=_check)

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

    for status in check_assets(arguments.folder):
        asset = status.asset
        sys.stdout.write(
            f"{status.state:<12} {status.path}\n"
            f"             purpose  {asset.purpose}\n"
            f"             licence  {asset.licence}\n"
            f"             owner    {asset.owner}\n"
            f"             sha256   {asset.sha256 + '...' if asset.sha256 else 'not published'}\n"
        )
    sys.stdout.write("The built-in head and `make demo` need none of these.\n")
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
