"""Files from the web, for videos and weights: bounded in size, pace and time, and kept out of this network.

The address that a setting names is trusted. Where its host sends us on to is not: a redirect must lead to a
public address, by whatever name, or to the same host again. The address that was checked is the one that is
connected to, so that a name cannot change in between.
"""

from __future__ import annotations

import functools
import http.client
import ipaddress
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol
from urllib.parse import urlsplit

from safa.limits import check_limit, limit, over_limit

BLOCK_BYTES = 2**18
MEBIBYTE = 2**20
SCHEMES = ("http", "https")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Readable(Protocol):
    """An answer that gives what has come, without waiting for more."""

    def read1(self, n: int = -1, /) -> bytes:
        """At most ``n`` bytes; none at the end."""
        ...


class RefusedRedirectError(OSError):
    """The host sends us where nobody asked to go."""


class SlowDownloadError(TimeoutError):
    """The host sends less than one MiB in the time that it has."""


@contextmanager
def opened(url: str, headers: Mapping[str, str], timeout: float) -> Iterator[http.client.HTTPResponse]:
    """Ask for a URL. Its redirects are followed to public addresses only.

    Args:
        timeout: seconds without a byte.

    Raises:
        urllib.error.HTTPError: as ``urllib.request.urlopen``.
        OSError: the host cannot be reached, is too slow, or sends us to an address that is not public.
    """
    origin = urlsplit(url).netloc
    opener = urllib.request.build_opener(_Redirects, _Http(origin), _Https(origin))
    try:
        answer = opener.open(urllib.request.Request(url, headers=dict(headers)), timeout=timeout)
    except urllib.error.URLError as error:
        if isinstance(error.reason, RefusedRedirectError):
            raise error.reason from None
        raise
    with answer:
        yield answer


def blocks(answer: Readable, bound: str, where: str, have: int = 0) -> Iterator[bytes]:
    """Read an answer block by block, until its end or a limit.

    Args:
        bound: the limit on its bytes, a name in ``safa.limits``.
        have: bytes of the file that are here already.

    Raises:
        UserError: more bytes than ``bound``, or more time than ``download_seconds``.
        SlowDownloadError: one MiB takes longer than ``download_pace``.
        OSError: the connection fails.
    """
    pace = Pace(where, have)
    while block := answer.read1(BLOCK_BYTES):  # what has come; `read` would wait for a whole block
        have += len(block)
        check_limit(bound, have, where)
        yield block
        if pace.is_slow(have):
            raise SlowDownloadError(str(over_limit("download_pace", where)))


class Pace:
    """How fast a download is.

    Args:
        where: for errors.
        have: bytes that are here before it begins.
    """

    def __init__(self, where: str, have: int = 0) -> None:
        self._where, self._marked = where, have
        self._began = self._mark = time.monotonic()

    def is_slow(self, have: int) -> bool:
        """Look at the clock, with so many bytes here: did the last MiB take longer than ``download_pace``?

        Raises:
            UserError: all of it takes longer than ``download_seconds``.
        """
        now = time.monotonic()
        check_limit("download_seconds", now - self._began, self._where)
        if have >= self._marked + MEBIBYTE:
            self._mark, self._marked = now, have
        return now - self._mark > limit("download_pace")


# ---- where a redirect may lead -----------------------------------------------------------------------------


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but not from https to http, nor to other schemes than these."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Refuse what ``urllib`` would follow."""
        scheme = urlsplit(newurl).scheme
        if scheme not in SCHEMES or (req.type == "https" and scheme == "http"):
            fp.close()
            raise RefusedRedirectError(f"the host sends us from {req.type} to {scheme[:20]!a}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Http(urllib.request.HTTPHandler):
    def __init__(self, origin: str) -> None:
        super().__init__()
        self._origin = origin

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Connect to what ``_connect`` allows."""
        connection = functools.partial(_Connection, to_public=must_be_public(req, self._origin))
        return self.do_open(connection, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, origin: str) -> None:
        super().__init__(context=ssl.create_default_context())
        self._origin = origin

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Connect to what ``_connect`` allows."""
        connection = functools.partial(_SafeConnection, to_public=must_be_public(req, self._origin))
        context = self._context  # type: ignore[attr-defined]
        return self.do_open(connection, req, context=context)


def must_be_public(request: urllib.request.Request, origin: str) -> bool:
    """Whether the address that a request connects to must be public: not the origin's, and not a proxy's.

    A proxy resolves names itself, so what a redirect names is checked here as far as it can be.
    """
    target = urlsplit(request.full_url).netloc
    if target == origin:
        return False
    if request.has_proxy() or getattr(request, "_tunnel_host", None):
        with suppress(socket.gaierror):
            _public_addresses(urlsplit(request.full_url).hostname or "", 0)
        return False
    return True


class _Timed(http.client.HTTPConnection):
    """A connection that a host cannot hold open by sending its headers slowly."""

    def __init__(self, *arguments: Any, to_public: bool, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if to_public:
            self._create_connection = connect_to_public

    def getresponse(self) -> http.client.HTTPResponse:
        """The answer, whose headers have the time of one MiB."""
        timer = threading.Timer(limit("download_pace"), self._hang_up)
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse()
        finally:
            timer.cancel()

    def _hang_up(self) -> None:
        with suppress(OSError, AttributeError):
            self.sock.shutdown(socket.SHUT_RDWR)


class _Connection(_Timed):
    pass


class _SafeConnection(_Timed, http.client.HTTPSConnection):
    pass


def connect_to_public(
    address: tuple[str, int], timeout: float | None = None, source_address: Any = None
) -> socket.socket:
    """Connect to one of a name's addresses, if all of them are public."""
    error: OSError = OSError("the name has no address")
    for found in _public_addresses(*address):
        try:
            return socket.create_connection((str(found), address[1]), timeout, source_address)
        except OSError as failed:
            error = failed
    raise error


def _public_addresses(host: str, port: int) -> list[Address]:
    """The addresses of a name.

    Raises:
        RefusedRedirectError: one of them is of this machine, of a private network, or otherwise not public.
    """
    answers = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found = [ipaddress.ip_address(str(answer[4][0]).partition("%")[0]) for answer in answers]
    for address in found:
        if not is_public(address):
            raise RefusedRedirectError(f"the host sends us to {host[:80]!a} ({address}), which is not public")
    return found


def is_public(address: Address) -> bool:
    """Whether an address is one of the internet's, also where IPv6 carries one of IPv4."""
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inside = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inside is not None:
            return is_public(inside)
        if address.is_site_local or address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast
