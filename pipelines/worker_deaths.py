"""Inputs that kill the worker that handles them: they are given up after two deaths.

Ray starts a dead worker's task again, without end. So a task leaves a mark in the run folder while it works;
one that finds the mark of another knows that a worker died there, and handles its inputs one by one, with a
mark each. A death counts against an input only if it was alone, and only if the machine is still there: a
machine that is lost takes its workers along, whatever they do.
"""

from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import ray

from safa.errors import ClipError, FailureCode
from safa.files import Location, atomic_write, delete, entries, exists, is_uri, join, read_bytes

MARKS = ".attempts"  # folder in the run folder
MAX_DEATHS = 2  # of workers, each alone with one input
ANSWER_WITHIN = 5.0  # seconds, for the machine of a dead worker


class Attempts:
    """Marks of what is being worked at, in a run folder that all machines see."""

    def __init__(self, out: Location) -> None:
        self._folder = join(out, MARKS)

    @contextmanager
    def mark(self, name: str) -> Iterator[int]:
        """Leave a mark while the block runs. Gives how many workers have died in it before.

        The mark goes when the block ends, by an error too: this worker is alive.
        """
        where = join(self._folder, hashlib.sha256(name.encode()).hexdigest()[:32])
        deaths = _deaths(where)
        _write(where, json.dumps({"deaths": deaths, **_here()}))
        try:
            yield deaths
        finally:
            delete(where)

    def give_up_after(self, deaths: int) -> None:
        """Refuse an input at which so many workers have died alone.

        Raises:
            ClipError: ``unexpected``, from ``MAX_DEATHS`` on.
        """
        if deaths >= MAX_DEATHS:
            raise ClipError(FailureCode.UNEXPECTED, f"{deaths} workers died at this input alone")


def forget_attempts(out: Location) -> None:
    """Delete the marks of a run that was killed: nobody died of their inputs."""
    folder = join(out, MARKS)
    for entry in entries(folder) if exists(folder) else ():
        delete(entry.location)
    if not is_uri(folder):
        with suppress(OSError):  # it is not there, or a task that was cancelled is about to end
            Path(folder).rmdir()


def _write(mark: Location, text: str) -> None:
    """Without the flush of an atomic file, which takes longer than a short clip: half a mark is one, too."""
    if is_uri(mark):
        atomic_write(mark, text)
        return
    Path(mark).parent.mkdir(parents=True, exist_ok=True)
    Path(mark).write_text(text, encoding="utf-8")


@lru_cache(maxsize=1)
def _here() -> dict[str, object]:
    """Which machine this is, and where its raylet answers."""
    own = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
    node = next((node for node in ray.nodes() if node["NodeID"] == own), None) if own else None
    if node is None:
        return {"address": "", "port": 0}
    return {"address": node["NodeManagerAddress"], "port": node["NodeManagerPort"]}


def _deaths(mark: Location) -> int:
    """How many deaths the mark of a former attempt stands for; 0 without one."""
    if not exists(mark):
        return 0
    try:
        former = json.loads(read_bytes(mark))
        deaths, address, port = int(former["deaths"]), str(former["address"]), int(former["port"])
    except (OSError, ValueError, KeyError, TypeError):
        return 1  # a mark that is damaged is one all the same
    return deaths + _answers(address, port)


def _answers(address: str, port: int) -> bool:
    """Whether a machine's raylet is alive. Ray's own list of machines may be half a minute behind."""
    if not address:
        return True
    try:
        socket.create_connection((address, port), timeout=ANSWER_WITHIN).close()
    except OSError:
        return False
    return True
