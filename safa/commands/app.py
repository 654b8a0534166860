"""``safa app``: a page in the browser."""

from __future__ import annotations

import argparse
import math
from functools import partial
from pathlib import Path
from typing import Any

from safa.commands.flags import add_model_flags, load_animator_from_flags
from safa.errors import UserError
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
        "--host",
        default="127.0.0.1",
        help="address to serve at (default: 127.0.0.1, only this machine); any other needs --auth",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name that the page may be reached by, e.g. of a proxy or a notebook; may be repeated",
    )
    parser.add_argument(
        "--auth", type=Path, metavar="FILE", help="ask for a name and a password: a file with USER:PASSWORD"
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
        "--max-minutes",
        type=float,
        default=30,
        metavar="M",
        help="longest time that one job may take, in minutes (default: 30)",
    )
    parser.add_argument(
        "--max-mb", type=float, default=100, metavar="MB", help="largest upload accepted (default: 100)"
    )
    parser.set_defaults(run=_app)


def _app(arguments: argparse.Namespace) -> int:
    from safa.app import Address, Limits, serve

    for name in ("max_seconds", "max_minutes", "max_mb"):
        value = getattr(arguments, name)
        if not 0 < value < math.inf:  # nor a number that is none, which is never passed
            raise UserError(f"{value} is no limit", f"--{name.replace('_', '-')}", "Give a number above 0.")
    limits = Limits(arguments.max_seconds, arguments.max_mb, arguments.max_minutes)
    address = Address(arguments.host, arguments.port, tuple(arguments.allow_host), arguments.auth)
    serve(partial(load_animator_from_flags, arguments), limits, address)
    return 0
