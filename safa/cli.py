"""The ``safa`` command, for one person at one machine.

Each subcommand lives in ``safa.commands`` and adds its own flags; heavy packages are imported only when a
command runs, so that ``safa --help`` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from safa import __version__
from safa.command_line import Parser
from safa.commands import (
    animate,
    app,
    assets,
    checkpoint,
    dataset,
    doctor,
    export,
    inspect,
    reconstruct3d,
    swap,
)
from safa.commands.flags import error_in_flags, translate_upstream_flags
from safa.errors import UserError, ending_on_sigterm, run_reporting_errors

COMMANDS = (animate, swap, reconstruct3d, app, doctor, inspect, dataset, assets, checkpoint, export)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the whole command line; nothing heavy is imported."""
    parser = Parser(
        prog="safa",
        description="Structure-aware face animation: animate the face in a photo with the motion of a video.",
        epilog="For whole data sets: python -m pipelines.{preprocess,train,evaluate,demo} --config FILE",
    )
    parser.add_argument("--version", action="version", version=f"safa {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 2 for an error that the user can fix."""
    arguments = build_parser().parse_args(translate_upstream_flags(sys.argv[1:] if argv is None else argv))

    def run() -> int | None:
        from safa.paths import refuse_uri

        for name, value in vars(arguments).items():
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, Path):
                    refuse_uri(item, name)
        try:
            with ending_on_sigterm():
                code: int | None = arguments.run(arguments)
        except UserError as error:
            raise error_in_flags(error) from None
        return code

    # A command has no state to continue from, as a run has.
    return run_reporting_errors(run, "the same command starts anew")


if __name__ == "__main__":
    sys.exit(main())
