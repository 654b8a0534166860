"""What reaches the terminal of a program that uses Ray.

The C++ parts of Ray write their errors straight to standard error, past Python's logging. Those that matter
come to us as exceptions, too; the others say for every pool of actors that its arguments lie in the object
store. And Ray Train has an actor that cleans up after trainings, which says at each start that it cannot ask
yet whether the training runs, and at each end that it does what it is for. So what is written there during a
session goes through a pipe, and such lines are left out; they are also in Ray's log files. Our own lines
from workers on this machine lose the name and the number of the process that Ray puts before them.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# E.g. "(TrainController pid=1) [2026-01-01 10:00:00,000 E 1 2] core_worker.cc:2465: Actor with class ...";
# a failed check (C) is shown.
FROM_RAYS_CORE = re.compile(rb"\[\d{4}-\d\d-\d\d [\d:,]+ [DIWE] \d+ \d+\] (?:\([\w ]+\) )?\w+\.cc:\d+: ")
# What Ray puts before a line of one of our processes on this machine; lines from other machines keep it.
BEFORE_OURS = re.compile(rb"^(?:\033\[\d+m)?\(\w+ pid=\d+\)(?:\033\[0m)? (?=\d\d:\d\d:\d\d )")
FROM_CLEANER = re.compile(rb"^(?:\033\[\d+m)?\(PlacementGroupCleaner pid=")
STDERR = 2


@contextmanager
def without_rays_housekeeping() -> Iterator[None]:
    """Leave lines of Ray's C++ parts and of its cleaner out of standard error, children's lines included."""
    sys.stderr.flush()
    real = os.dup(STDERR)
    reading, writing = os.pipe()
    os.dup2(writing, STDERR)
    os.close(writing)
    thread = threading.Thread(target=_copy, args=(reading, real), daemon=True)
    thread.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(real, STDERR)  # and so the pipe ends, unless a child still has it
        thread.join(1.0)


def _copy(reading: int, real: int) -> None:
    """Copy whole lines that people should see, until the pipe ends."""
    rest = b""
    while chunk := os.read(reading, 65536):
        *lines, rest = (rest + chunk).split(b"\n")
        shown = (BEFORE_OURS.sub(b"", line) for line in lines if not _is_housekeeping(line))
        _write(real, b"".join(line + b"\n" for line in shown))
    _write(real, rest)
    os.close(reading)
    os.close(real)


def _is_housekeeping(line: bytes) -> bool:
    return bool(FROM_RAYS_CORE.search(line) or FROM_CLEANER.match(line))


def _write(real: int, data: bytes) -> None:
    while data:
        data = data[os.write(real, data) :]
