"""Is the output folder shared? Checked before any work, by every process that will write there.

On a cluster, a machine without the shared mount writes into a folder of its own, and everything that it makes
is lost. So the driver writes a small file with a random name, a probe, and whoever sees that file sees the
folder. Machines that are there at the start are asked at once; one that joins later finds out with its first
row.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.lease import job_id
from safa.config import Settings
from safa.errors import UserError
from safa.files import Location, absolute, atomic_write, delete, entries, exists, is_uri, join, shown
from safa.memory import freeze_what_is_loaded, keep_freed_memory

log = logging.getLogger(__name__)

PROBE = ".probe-"  # begins the name of a probe
OUTPUT_KEYS = ("run", "out", "runs")  # what settings call their output folder
LOOK_FOR = 5.0  # seconds: a network mount may show a new file a little later
ANSWER_WITHIN = 120.0  # seconds, for the first process of a node to start and look
FIX = "Mount it on every machine at the same path, or give a URI such as s3://bucket/folder."


@dataclass(frozen=True)
class Probe:
    """A file that all processes must see. Workers get this object, and call ``check`` before they write."""

    folder: str
    name: str

    def check(self) -> None:
        """Return if this process sees the probe; after the first time at once.

        Raises:
            UserError: it does not see the folder.
        """
        _see(self)

    def complaint(self) -> str:
        """Why this process cannot write into the folder; empty if it can.

        For workers that must agree before one of them raises, since the others would wait for it.
        """
        try:
            self.check()
        except UserError as error:
            return error.what
        return ""


_calls = itertools.count()  # of all stages in this process; a task makes its worker anew


class Checked:
    """What Ray Data runs on a worker, and a look for the probes of all its folders before its first row.

    The worker itself is made after that look, not in the constructor: Ray prints a page for an actor that
    does not start, and one line for a row that fails.
    """

    def __init__(
        self, probes: Sequence[Probe], worker: Callable[..., Callable[[Any], Any]], *arguments: Any
    ) -> None:
        self._probes, self._make = tuple(probes), partial(worker, *arguments)
        self._worker: Callable[[Any], Any] | None = None

    def __call__(self, row: Any) -> Any:
        """Do what the worker does with a row.

        Raises:
            UserError: this process does not see the folder.
        """
        for probe in self._probes:
            probe.check()
        if self._worker is None:
            keep_freed_memory()  # a stage makes and frees many megabytes for each of its rows
            self._worker = self._make()
        if next(_calls) == 1:
            freeze_what_is_loaded()  # by the first call
        return self._worker(row)


@lru_cache(maxsize=64)
def _see(probe: Probe) -> None:
    reason, deadline = "", time.monotonic() + LOOK_FOR
    while True:
        try:
            if exists(join(_location(probe), probe.name)):
                return
        except (UserError, OSError) as error:
            reason = f" ({error})"
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    where = shown(_location(probe))
    raise UserError(f"node {ray.util.get_node_ip_address()} does not see {where}{reason}", "", FIX)


def _location(probe: Probe) -> Location:
    return join(probe.folder)


@contextmanager
def shared(folder: Location) -> Iterator[Probe]:
    """Write a probe into a folder that this program holds, and check that all nodes of the session see it.

    Raises:
        UserError: a node does not see the folder, or it cannot be written to.
    """
    for entry in entries(folder) if exists(folder) else ():
        if entry.name.startswith(PROBE):  # of a run that was killed
            _forget(entry.location)
    probe = Probe(absolute(folder), f"{PROBE}{uuid.uuid4().hex}")
    atomic_write(join(folder, probe.name), "All machines of a run must see this file.\n")
    try:
        if ray.is_initialized():
            _ask_nodes(probe)
        yield probe
    finally:
        _forget(join(folder, probe.name))


def _forget(location: Location) -> None:
    with suppress(OSError, pa.ArrowException, UserError):
        delete(location)


def _ask_nodes(probe: Probe) -> None:
    """Ask every node that can take work, other than the driver's own.

    Raises:
        UserError: one of them does not see the probe.
    """
    own = ray.get_runtime_context().get_node_id()
    look = ray.remote(num_cpus=0, max_retries=0)(_complaint)
    asked = {
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            probe
        ): node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != own and {"CPU", "GPU"} & set(node["Resources"])
    }
    if not asked:
        return
    answered, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_WITHIN)
    complaints = []
    for answer in answered:
        try:
            complaints += [text for text in [ray.get(answer)] if text]
        except RayError as error:  # a node that is lost meanwhile writes nothing
            log.warning("node %s could not be asked: %s", asked[answer], type(error).__name__)
    for answer in late:
        log.warning("node %s has not answered yet; its workers will look themselves", asked[answer])
        ray.cancel(answer)
    if complaints:
        more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
        raise UserError(f"{complaints[0]}{more}", "", FIX)


def _complaint(probe: Probe) -> str:
    return probe.complaint()


def outputs_of(settings: Settings) -> list[Location]:
    """The folders that a run of these settings writes into."""
    found = (getattr(settings, key, None) for key in OUTPUT_KEYS)
    return [output for output in found if output is not None]


def refuse_unwritable(output: Location) -> None:
    """Refuse a folder on a disk that cannot be made, or written to, by this user here; nothing is written.

    Raises:
        UserError: it, or the first folder above it that is there, may not be written to.
    """
    if is_uri(output):
        return
    folder = Path(absolute(output))
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UserError("this user may not write there", shown(folder), f"Check the path {shown(output)}.")


def refuse_relative_outputs(settings: Settings) -> None:
    """Refuse a relative output folder inside a Ray job: it would lie in Ray's session, and go with it.

    Raises:
        UserError: ``run``, ``out`` or ``runs`` is relative, and this is a job.
    """
    if not job_id():
        return
    for key in OUTPUT_KEYS:
        location = getattr(settings, key, None)
        if location is None or is_uri(location) or str(location) == absolute(location):
            continue
        raise UserError(
            f"'{location}' is relative, and a job works in a folder that Ray deletes",
            key,
            f"Give an absolute path that all machines share, e.g. --set {key}=/mnt/shared/{location}.",
        )
