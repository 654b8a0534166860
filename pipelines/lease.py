"""One run per folder: two programs never write into one.

On a local disk the lock of the operating system says who works in a folder; it is free at once when its
holder dies, however it dies. On a network mount or in an object store there is no such lock, so a program
writes a lease: a small file that it renews while it works. A lease whose process is gone from this very
machine, or that is not renewed for ``STALE`` seconds, has lapsed.

An object store has no exclusive create. So a program first writes a pending lease under a random name, looks
who else is there, looks again after ``SETTLE`` seconds before it holds the folder, and once more when it
does; of two that come at the same time, the first by name stays. Only its own renewals tell whether a lease
is alive, never a clock: those of two machines may differ.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa

from safa.errors import UserError
from safa.files import Entry, Location, atomic_write, delete, entries, exists, is_uri, join, read_bytes, shown

log = logging.getLogger(__name__)

LOCK_FILE = ".lock"
LEASES = ".leases"  # folder
BEAT = 10.0  # seconds between renewals
STALE = 60.0  # seconds without one after which a lease has lapsed
MOST_TRIES = 100  # to make a folder, where others remove those above it
SETTLE = 2.0  # seconds between two looks at who else is there
NETWORK_MOUNTS = ("nfs", "cifs", "smb", "fuse", "lustre", "gpfs", "ceph", "beegfs", "glusterfs", "9p", "afs")


@dataclass(frozen=True)
class _Lease:
    """Who works in a folder. ``beat`` counts renewals; ``held`` is False until its owner has looked twice."""

    name: str
    host: str
    pid: int
    job: str
    beat: int = 0
    held: bool = False

    @property
    def owner(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}"


@contextmanager
def exclusive(folder: Location) -> Iterator[None]:
    """Hold a folder for the block; it is made if it is not there, and those that it lies in.

    Raises:
        UserError: another program works there.
    """
    made = [] if is_uri(folder) else [each for each in Path(folder).parents if not each.exists()]
    try:
        with _lease(folder) if needs_lease(folder) else _lock(Path(folder)):
            yield
    finally:
        for parent in made:  # after a start that failed at once nothing is left
            with suppress(OSError):
                parent.rmdir()


def job_id() -> str:
    """The id of the Ray job that this process is the program of; empty where it is none.

    Ray has no variable for it, but the program of a job gets its id in the settings of its session.
    """
    try:
        config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
        return str(config["metadata"]["job_submission_id"])
    except (ValueError, KeyError, TypeError):
        return os.environ.get("RAY_JOB_SUBMISSION_ID", "")


def needs_lease(folder: Location) -> bool:
    """Whether the lock of the operating system does not reach as far as the folder does."""
    if is_uri(folder):
        return True
    path, best, kind = os.path.realpath(folder), "", ""
    for line in (
        Path("/proc/mounts").read_text(encoding="utf-8").splitlines() if Path("/proc/mounts").exists() else ()
    ):
        _, mount, name, *_ = line.split(" ")
        mount = mount.replace("\\040", " ")
        if f"{path}/".startswith(mount.rstrip("/") + "/") and len(mount) >= len(best):
            best, kind = mount, name
    return kind.startswith(NETWORK_MOUNTS)


def _refusal(folder: Location, owner: str) -> UserError:
    return UserError(f"another program is at work here ({owner})", shown(folder), "Wait for it, or stop it.")


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    path, tries = folder / LOCK_FILE, 0
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:  # somebody has just deleted a folder above it
            tries += 1
            if tries == MOST_TRIES:
                raise
            continue
        except FileExistsError:
            if folder.exists():  # and is no folder; otherwise its last holder has just deleted it
                raise UserError("is no folder", str(folder), "Choose another one.") from None
            continue
        try:
            file = path.open("a+", encoding="utf-8")
        except FileNotFoundError:  # its last holder has just deleted the folder
            continue
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise _refusal(folder, file.read(200).strip() or "another process") from None
            if not _is_same(file, path):  # its last holder has just deleted it
                continue
            file.truncate(0)
            file.write(f"process {os.getpid()}\n")
            file.flush()
            try:
                yield
            finally:
                _leave_no_empty_folder(folder)
            return


def _is_same(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _leave_no_empty_folder(folder: Path) -> None:
    """Remove a folder that has nothing but the lock, as after a start that failed at once."""
    with suppress(OSError):
        if [entry.name for entry in os.scandir(folder)] == [LOCK_FILE]:
            (folder / LOCK_FILE).unlink()
            folder.rmdir()


# ---- leases ------------------------------------------------------------------------------------------------


@contextmanager
def _lease(folder: Location) -> Iterator[None]:
    own = _Lease(
        f"{time.time_ns():020d}-{uuid.uuid4().hex}.json",
        socket.gethostname(),
        os.getpid(),
        job_id(),
    )
    try:
        _write(folder, own)
    except UserError as error:  # the first thing that is written: what is wrong is wrong with the folder
        raise UserError(error.what, shown(folder), error.fix) from None
    try:
        _take(folder, own)
        stopped = threading.Event()
        thread = threading.Thread(target=_renew, args=(folder, own, stopped), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()
    finally:
        with suppress(OSError, pa.ArrowException, UserError):
            delete(join(folder, LEASES, own.name))
        if not is_uri(folder):  # after a start that failed at once nothing is left; a full folder stays
            with suppress(OSError):
                Path(folder, LEASES).rmdir()
                Path(folder).rmdir()


def _take(folder: Location, own: _Lease) -> None:
    """Return once the folder is ours.

    Raises:
        UserError: somebody else has it.
    """
    for pause in (0.0, SETTLE):
        time.sleep(pause)
        for other in _others(folder, own):
            _outlive(folder, own, other)
    _write(folder, replace(own, held=True))
    # Whoever was slow to write, and did not see in time that we hold it, is here by now: one of us has to go.
    rivals = [other for other in _others(folder, own) if other.name < own.name]
    if rivals:
        raise _refusal(folder, rivals[0].owner)


def _outlive(folder: Location, own: _Lease, other: _Lease) -> None:
    """Return once another lease has lapsed, or if ours goes first.

    Raises:
        UserError: it is alive.
    """
    if not other.held and own.name < other.name:
        return
    if other.host == own.host and not _is_running(other.pid):
        log.info("%s: taking over from %s, which is gone", shown(folder), other.owner)
        delete(join(folder, LEASES, other.name))
        return
    log.info("%s: held by %s; waiting up to %.0f s for a sign of life", shown(folder), other.owner, STALE)
    deadline = time.monotonic() + STALE
    while time.monotonic() < deadline:
        time.sleep(min(SETTLE, max(0.01, deadline - time.monotonic())))
        now = next((lease for lease in _others(folder, own) if lease.name == other.name), None)
        if now is None:
            return
        if now.beat != other.beat:
            raise _refusal(folder, other.owner)
    log.info(
        "%s: taking over from %s, of which nothing was seen for %.0f s", shown(folder), other.owner, STALE
    )
    delete(join(folder, LEASES, other.name))


def _renew(folder: Location, own: _Lease, stopped: threading.Event) -> None:
    lease = replace(own, held=True)
    while not stopped.wait(BEAT):
        lease = replace(lease, beat=lease.beat + 1)
        try:
            _write(folder, lease)
        except (OSError, pa.ArrowException, UserError) as error:
            log.warning("%s: the lease could not be renewed (%s)", shown(folder), error)


def _write(folder: Location, lease: _Lease) -> None:
    for tries_left in (2, 1, 0):
        try:
            atomic_write(join(folder, LEASES, lease.name), json.dumps(asdict(lease)))
            return
        except FileNotFoundError:  # its last holder has just deleted the folder
            if not tries_left:
                raise


def _others(folder: Location, own: _Lease) -> list[_Lease]:
    """All other leases, the first by name first; one that cannot be read was deleted while we looked."""
    if not exists(join(folder, LEASES)):
        return []
    leases = [_read(entry) for entry in entries(join(folder, LEASES)) if entry.suffix == ".json"]
    return sorted(
        (lease for lease in leases if lease is not None and lease.name != own.name), key=lambda x: x.name
    )


def _read(entry: Entry) -> _Lease | None:
    try:
        fields: dict[str, Any] = json.loads(read_bytes(entry.location))
        return replace(_Lease(**fields), name=entry.name)
    except (OSError, ValueError, TypeError, pa.ArrowException, UserError):
        return None


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
