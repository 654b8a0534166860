"""Starting a pipeline: ``launch`` is the body of ``main`` in every program of this package.

They are called as ``python -m pipelines.X --config Y.yaml [--set a.b=c ...]``, by hand or by
``ray job submit``, and share flags, logging, progress lines, exit codes and the Ray session.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import ray
from ray.data import DataContext

from safa.config import Settings, load_settings
from safa.errors import run_reporting_errors

S = TypeVar("S", bound=Settings)


def launch(
    name: str,
    description: str,
    settings: type[S],
    body: Callable[[S], int | None],
    argv: Sequence[str] | None = None,
    alternatives: Mapping[str, tuple[str, Callable[[S], int | None]]] | None = None,
) -> int:
    """Parse the command line, read the settings, run ``body`` with them.

    Args:
        name: of the program, as in ``python -m pipelines.NAME``.
        alternatives: flag -> (help, what it runs instead of ``body``).
        argv: the arguments; None = those of this process.

    Returns:
        The exit code; 2 for an error that the user can fix, which is reported in one line.
    """
    parser = argparse.ArgumentParser(prog=f"python -m pipelines.{name}", description=description)
    parser.add_argument("--config", type=Path, required=True, help="YAML file with the settings")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change one setting, e.g. --set size=128; may be repeated",
    )
    choice = parser.add_mutually_exclusive_group()
    for flag, (help_text, other) in (alternatives or {}).items():
        choice.add_argument(
            flag, dest="body", action="store_const", const=other, default=body, help=help_text
        )
    parser.set_defaults(body=body)
    arguments = parser.parse_args(argv)
    set_up_logging()
    return run_reporting_errors(
        lambda: arguments.body(load_settings(arguments.config, settings, arguments.overrides))
    )


def set_up_logging() -> None:
    """Log one line per event, with the time; of Ray's own messages only warnings and errors."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    for chatty in ("ray", "ray.data", "ray.train", "ray.tune"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


@contextmanager
def ray_session() -> Iterator[None]:
    """Connect to Ray for the block: to the cluster in RAY_ADDRESS, which a job has set, or to this machine.

    A session that was running before is used, and left running.
    """
    if ray.is_initialized():
        yield
        return
    # "local", since without an address Ray would wait for whatever cluster last ran here, dead or not.
    address = os.environ.get("RAY_ADDRESS", "local")
    ray.init(address, logging_level=logging.WARNING, configure_logging=False)
    # Progress is ours: a line with counts and rates reads well in a job's log too.
    DataContext.get_current().enable_progress_bars = False
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def honest_interrupts() -> Iterator[None]:
    """Let an interrupt of the block end the program as an interrupt.

    Ray Train responds to one by ending the process with exit code 0, as if all were well, and leaves its
    signal handler behind.

    Raises:
        KeyboardInterrupt: where the block would end the process.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)
