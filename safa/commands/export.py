"""``safa export``: a model for other runtimes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add ``safa export`` to the command line."""
    parser = subparsers.add_parser(
        "export",
        help="write a model as ONNX graphs",
        description="Writes source.onnx, driving.onnx, generator.onnx and graphs.json, which says what goes "
        "in and what comes out. docs/onnx.md shows how to run them. Needs the extra `onnx`.",
    )
    parser.add_argument(
        "checkpoint", help="a training run's folder, a converted checkpoint or a released file; or its URI"
    )
    parser.add_argument("--onnx", type=Path, required=True, metavar="DIR", help="the folder to write")
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> int:
    from safa.files import shown
    from safa.inference.loading import open_model
    from safa.inference.onnx_export import export_onnx

    model, about = open_model(arguments.checkpoint)
    for path in export_onnx(model, arguments.onnx, about):
        sys.stdout.write(f"wrote {shown(path)}\n")
    return 0
