"""The machines of a session: does the cluster answer, can Ray start here, and is there room for the work?

Everything that Ray would wait for in silence, or report in a page, is one line here, before any work.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import ray
from ray._private.services import get_ray_address_from_environment
from ray.exceptions import RayError

from pipelines.growth import Growth, growth, places_in
from safa.cores import ROUNDING
from safa.decimals import whole
from safa.errors import UserError

log = logging.getLogger(__name__)

CONNECTS_WITHIN = 5.0  # seconds, for the head's machine
ANSWERS_WITHIN = 15.0  # seconds, for Ray on it; together, and with Ray's own checks, less than 30
LONGEST_SOCKET = 107  # bytes of a path that the system takes for a socket
# What Ray adds to its temporary folder, with the date, the time, microseconds and a process.
SOCKET_BELOW = len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
# What Python adds to its own, in Ray's dashboard.
PYTHONS_SOCKET = len("/pymp-12345678/listener-12345678")
DASHBOARD_PORT = 8265
SAY_EVERY = 60.0  # seconds between lines that say what is waited for
LOOK_EVERY = 2.0  # seconds between looks at what has come
CHECK_ADDRESS = (
    "Check RAY_ADDRESS and the token (~/.ray/auth_token, or RAY_AUTH_TOKEN_PATH), or unset RAY_ADDRESS "
    "to work on this machine alone."
)


# ---- the cluster at an address -----------------------------------------------------------------------------


def cluster_address() -> str:
    """What ``RAY_ADDRESS`` says, ``auto`` being the cluster that last began on this machine; or ``local``.

    ``local`` without an address, since Ray would wait for whatever cluster last ran here, dead or not.

    Raises:
        UserError: it is ``auto``, and no cluster is here.
    """
    given = os.environ.get("RAY_ADDRESS") or "local"
    if given != "auto":
        return given
    try:
        return str(get_ray_address_from_environment(given, None))
    except ConnectionError:
        raise UserError("no Ray cluster runs on this machine", "RAY_ADDRESS=auto", CHECK_ADDRESS) from None


def check_address(address: str) -> None:
    """Refuse an address where no cluster can be, or answers; Ray would try for minutes.

    Raises:
        UserError: it is a job server's or Ray Client's, nobody answers there, or what answers is not Ray.
    """
    if address.startswith("ray://"):
        fix = (
            "Submit the program with `ray job submit`, or give host:port of the head to one that runs there."
        )
        raise UserError("is an address of Ray Client, which these programs do not use", address, fix)
    if address.startswith(("http://", "https://")):
        fix = "RAY_ADDRESS is host:port of the head (usually port 6379); give this one to `ray job submit`."
        raise UserError("is the address of a job server", address, fix)
    host, _, port = address.rpartition(":")
    if "://" in address or not host or whole(port) is None:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECTS_WITHIN).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster answers ({error})", address, CHECK_ADDRESS) from None
    channel = grpc.insecure_channel(address)
    try:
        grpc.channel_ready_future(channel).result(timeout=ANSWERS_WITHIN)
    except grpc.FutureTimeoutError:
        what = f"something listens there, and within {ANSWERS_WITHIN:g} s it did not answer as Ray does"
        raise UserError(what, address, CHECK_ADDRESS) from None
    finally:
        channel.close()


# ---- Ray on this machine -----------------------------------------------------------------------------------


def local_options() -> dict[str, Any]:
    """What ``ray.init`` needs to start Ray on this machine: its temporary folder and the dashboard's port.

    Raises:
        UserError: the path of the temporary folder is too long for Ray's sockets, or cannot be written to.
    """
    return {"_temp_dir": str(_temporary_folder()), "dashboard_port": free_port(DASHBOARD_PORT)}


def _temporary_folder() -> Path:
    """Ray's folder; another one where that belongs to somebody who lets nobody in."""
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "")
    parent = Path(os.environ[name] if name else "/tmp").absolute()
    _check_length(parent, name, SOCKET_BELOW, "Set RAY_TMPDIR to a short one, e.g. RAY_TMPDIR=/tmp.")
    if other := os.environ.get("TMPDIR"):
        _check_length(Path(other).absolute(), "TMPDIR", PYTHONS_SOCKET, "Set TMPDIR to a short one.")
    folder = parent / "ray"
    if folder.exists() and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        log.info("%s belongs to another user; Ray's files go into %s-%d", folder, folder, os.getuid())
        folder = parent / f"ray-{os.getuid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fix = "Set RAY_TMPDIR to a folder that you may write to."
        raise UserError(f"Ray cannot write there ({error.strerror})", str(folder), fix) from None
    return folder


def _check_length(parent: Path, name: str, below: int, fix: str) -> None:
    """Refuse a folder for temporary files whose path leaves sockets in it no room.

    Raises:
        UserError: it does not; ``name`` is the variable that says so.
    """
    length, room = len(os.fsencode(parent)), LONGEST_SOCKET - below
    if length > room:
        what = f"the path is too long for Ray's sockets: {length} characters, at most {room}"
        raise UserError(what, f"{name}={parent}", fix)


def free_port(wanted: int) -> int:
    """A port on loopback that nobody listens at: the wanted one, or else any."""
    for port in (wanted, 0):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = listener.getsockname()[1]
            return found
    return wanted


# ---- room for the work -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Need:
    """What some work needs at the least: so many workers, each with these resources of one machine.

    Attributes:
        what: whose need it is, as in ``training``.
        each: resources of one worker, e.g. ``{"CPU": 2, "GPU": 1}``.
        workers: how many of them must run at once.
        where: the settings that say so, e.g. ``scale``.
        fix: what to do where there is no such room.
    """

    what: str
    each: Mapping[str, float]
    where: str
    fix: str
    workers: int = 1

    @property
    def total(self) -> dict[str, float]:
        """The resources of all workers; without those of which there is none."""
        return {name: self.workers * count for name, count in self.each.items() if count}


@contextmanager
def room_for(*needs: Need) -> Iterator[None]:
    """Refuse what can never have room; while what may still come is missing, a line in the log says so.

    A cluster without an autoscaler, and this machine, are as large as they will be (``pipelines.growth``).
    Each need is looked at by itself, as if the others were not there.

    Raises:
        UserError: there is no such room, and the cluster cannot grow to have it.
    """
    check_room(*needs)
    stopped = threading.Event()
    thread = threading.Thread(target=_say_what_is_missing, args=(needs, stopped), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def check_room(*needs: Need) -> None:
    """Refuse what can never have room.

    Raises:
        UserError: as ``room_for``.
    """
    for need in needs:
        if missing := _missing(need, _alive()):
            _refuse_never(need, missing)


def gpus_to_come() -> int:
    """Where no GPU is there yet, those of one machine that may come; more are for who asks for them."""
    to_come = growth()
    if to_come is None or _sum(_alive(), "GPU"):
        return 0
    return int(to_come.most_of_one("GPU"))


def _refuse_never(need: Need, missing: str) -> None:
    to_come = growth()
    if to_come is None:
        here = "the cluster" if "RAY_ADDRESS" in os.environ else "this machine"
        raise UserError(
            f"{need.what} asks for {missing.replace('there', f'in {here}')}", need.where, need.fix
        )
    if too_much := _more_than_may_come(need, to_come):
        raise UserError(f"{need.what} asks for {too_much}", need.where, need.fix)


def _more_than_may_come(need: Need, to_come: Growth) -> str:
    """What even the largest cluster lacks; empty if it has all."""
    for name, count in need.total.items():
        most = max(to_come.most(name), _sum(_alive(), name))
        if count > most + ROUNDING:
            return f"{amount(count, name)}, and the cluster grows to {most:g} at most"
    places = to_come.places(need.each)
    if need.total and places < need.workers:
        return f"{_together(need)} of one machine, and the cluster grows to {places:g} at most"
    return ""


def _together(need: Need) -> str:
    each = " and ".join(amount(count, name) for name, count in need.each.items() if count)
    return f"{need.workers} x {each}"


def _say_what_is_missing(needs: Sequence[Need], stopped: threading.Event) -> None:
    waited = SAY_EVERY
    with suppress(RayError, ConnectionError, RuntimeError):  # a cluster that is lost is reported elsewhere
        while missing := next(filter(None, (_missing(need, _alive()) for need in needs)), ""):
            if waited >= SAY_EVERY:
                log.info("waiting for %s", missing)
                waited = 0.0
            if stopped.wait(LOOK_EVERY):
                return
            waited += LOOK_EVERY


def _missing(need: Need, machines: Sequence[Mapping[str, float]]) -> str:
    """What there is too little of, e.g. ``8 CPUs, 2 are there``; empty if there is enough."""
    for name, count in need.total.items():
        if count > _sum(machines, name) + ROUNDING:
            return f"{amount(count, name)}, {_sum(machines, name):g} are there"
    places = sum(places_in(machine, need.each) for machine in machines)
    if need.total and places < need.workers:
        return f"{_together(need)} of one machine, {places} are there"
    return ""


def amount(count: float, name: str) -> str:
    """``1 CPU``, ``8 CPUs``."""
    return f"{count:g} {name}{'' if count == 1 else 's'}"


def _sum(machines: Sequence[Mapping[str, float]], name: str) -> float:
    return sum(machine.get(name, 0.0) for machine in machines)


def _alive() -> list[dict[str, float]]:
    """The resources of each machine that is there, whether or not they are in use."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


# ---- what took part ----------------------------------------------------------------------------------------

_seen: dict[str, dict[str, str]] = {}  # of the newest session


def forget_machines() -> None:
    """Begin a session: no machine has been seen."""
    _seen.clear()


def machines_seen() -> list[dict[str, str]]:
    """The machines of the newest session, lost ones too: node id and address of each. Empty without Ray."""
    if ray.is_initialized():
        for node in ray.nodes():
            _seen[node["NodeID"]] = {"id": node["NodeID"], "address": node["NodeManagerAddress"]}
    return sorted(_seen.values(), key=lambda node: node["id"])
