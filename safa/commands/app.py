"""``safa app``: a page in the browser."""

from __future__ import annotations

import argparse
from typing import Any

from safa.commands.flags import add_model_flags, load_animator_from_flags
from safa.messages import INSTALL_APP


def add_parser(subparsers: Any) -> None:
    """Add ``safa app`` to the command line."""
    parser = subparsers.add_parser(
        "app",
        help="do the same in a browser",
        description="Serves a page on this machine with three tabs: animate, swap, 3D head. Needs the extra "
        f"`app`: {INSTALL_APP}",
    )
    add_model_flags(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to serve at (default: 127.0.0.1, only this machine)"
    )
    parser.add_argument("--port", type=int, default=7860, help="port to serve at (default: 7860)")
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=60,
        metavar="S",
        help="longest video accepted, in seconds (default: 60)",
    )
    parser.add_argument(
        "--max-mb", type=float, default=100, metavar="MB", help="largest upload accepted (default: 100)"
    )
    parser.set_defaults(run=_app)


def _app(arguments: argparse.Namespace) -> int:
    from safa.app import Limits, serve

    limits = Limits(arguments.max_seconds, arguments.max_mb)
    serve(lambda: load_animator_from_flags(arguments), limits, arguments.host, arguments.port)
    return 0
