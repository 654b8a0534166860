"""``safa app``: the page in a browser."""

from __future__ import annotations

import argparse
from typing import Any

from safa.commands.flags import add_model_flags, load_animator_from_flags


def add_parser(subparsers: Any) -> None:
    """Add ``safa app`` to the command line."""
    parser = subparsers.add_parser(
        "app",
        help="the same in a browser, on this machine",
        description="Serves a local page with three tabs: animate, swap, 3D head. Needs the extra `app`: "
        "`make install`, or .venv/bin/python -m pip install -e '.[app]'.",
    )
    add_model_flags(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to serve at (default: 127.0.0.1, this machine alone)"
    )
    parser.add_argument("--port", type=int, default=7860, help="(default: 7860)")
    parser.add_argument(
        "--max-seconds", type=float, default=60, metavar="S", help="longest video taken (default: 60)"
    )
    parser.add_argument(
        "--max-mb", type=float, default=100, metavar="MB", help="largest upload taken (default: 100)"
    )
    parser.set_defaults(run=_app)


def _app(arguments: argparse.Namespace) -> int:
    from safa.app import Limits, serve

    limits = Limits(arguments.max_seconds, arguments.max_mb)
    serve(lambda: load_animator_from_flags(arguments), limits, arguments.host, arguments.port)
    return 0
