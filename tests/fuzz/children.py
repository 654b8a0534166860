"""Child processes that try inputs: one that dies is a crash, and the next one continues."""

from __future__ import annotations

import datetime
import mmap
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

MEMORY = 1 << 30  # bytes a child may take beside what it has after its imports
MOST_CRASHES = 20  # enough to know
INTERRUPTED = 72  # exit code of libFuzzer that a signal ended: no crash, and the next child continues


def supervise(command: Sequence[str], folder: Path, runs: int, seed: int, kind: str) -> bool:
    """Start children until so many inputs were tried; count those that died, and print one line.

    Args:
        command: of a child, without the options that are added here.
        folder: where inputs that crash are kept.
        kind: of search, in a few words.

    Returns:
        Whether all inputs were tried, and none crashed.
    """
    for name in ("corpus", "crashes"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    counter = folder / "count"
    done = crashes = 0
    started = time.monotonic()
    while done < runs and crashes < MOST_CRASHES:
        counter.write_bytes(bytes(8))
        options = ["--child", str(counter), "--folder", str(folder)]
        options += ["--runs", str(runs - done), "--seed", str(seed + crashes)]
        child = subprocess.run(
            [*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
        )
        tried: int = struct.unpack("<Q", counter.read_bytes())[0]
        done += tried
        if child.returncode not in (0, INTERRUPTED):
            crashes += 1
            sys.stderr.write(child.stderr.decode(errors="replace")[-3000:])
        if not tried:
            sys.stderr.write("the child did not start\n")
            break
    minutes = (time.monotonic() - started) / 60
    today = datetime.date.today().isoformat()
    print(f"{today}: {done} executions ({kind}), {crashes} crashes, {minutes:.1f} minutes")  # noqa: T201
    return not crashes and done >= runs


class Counter:
    """How many inputs a child has tried, in a file that survives a crash."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._count = mmap.mmap(file.fileno(), 8)

    def add(self) -> None:
        """Count one more."""
        self._count[:8] = struct.pack("<Q", struct.unpack("<Q", self._count[:8])[0] + 1)


def bound_memory() -> None:
    """More than the child has now and a little is a fault, not a slow machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
