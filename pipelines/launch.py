"""What all pipeline programs share: flags, logging, exit codes, the Ray session.

``python -m pipelines.X --config Y.yaml [--set a.b=c ...]``, by hand or as what ``ray job submit`` runs.
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
    instead: Mapping[str, tuple[str, Callable[[S], int | None]]] | None = None,
) -> int:
    """Read the settings, run ``body`` with them, return the exit code (2: a fault that the user can fix).

    Args:
        instead: flag -> (help, what to run instead of ``body``).
    """
    parser = argparse.ArgumentParser(prog=f"python -m pipelines.{name}", description=description)
    parser.add_argument("--config", type=Path, required=True, help="YAML file with the settings")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="change one setting, e.g. --set size=128; may be given often",
    )
    chosen = parser.add_mutually_exclusive_group()
    for flag, (words, other) in (instead or {}).items():
        chosen.add_argument(flag, dest="body", action="store_const", const=other, default=body, help=words)
    parser.set_defaults(body=body)
    arguments = parser.parse_args(argv)
    set_up_logging()
    return run_reporting_errors(
        lambda: arguments.body(load_settings(arguments.config, settings, arguments.overrides))
    )


def set_up_logging() -> None:
    """One line per event, with the time; Ray's own chatter only from warnings on."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
    for chatty in ("ray", "ray.data", "ray.train", "ray.tune"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


@contextmanager
def ray_session() -> Iterator[None]:
    """Ray for the block: the cluster in RAY_ADDRESS (a job has it set), otherwise this machine alone.

    A session that was running before goes on afterwards.
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
    """Keep an interrupt an interrupt.

    Ray Train answers one by ending the process with exit code 0, as if all were well, and leaves its handler
    behind.

    Raises:
        KeyboardInterrupt: Where the block ended the process.
    """
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)
