"""Who may talk to the page: requests by a trusted name, from the page itself, answered under a policy.

A page on this machine can be reached by any website that its user visits: by a name that is made to point to
127.0.0.1 (DNS rebinding), or by forms and scripts that send requests across sites. So the Host must be
known, an Origin must be known too, and other sites can neither frame the page nor read its answers. What is
sent is counted, since the server keeps it in memory or on the disk.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from safa.decimals import whole

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Gradio's page needs inline scripts and styles; nothing comes from another host.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
READING = frozenset({"GET", "HEAD", "OPTIONS"})
API = "/gradio_api"
UPLOAD = f"{API}/upload"
# What the page uses of Gradio's server, which can do more: run ffmpeg on recordings, fetch addresses.
READ = re.compile(
    r"/|/(config|login_check|logout|theme\.css|favicon\.ico|manifest\.json|robots\.txt)/?"
    r"|/(static|assets|svelte|pwa_icon)(/.*)?"
    rf"|{API}/(info|user|token|app_id|login_check|startup-events|theme\.css|queue/data|upload_progress)/?"
    rf"|{API}/(file=|heartbeat/).*",
    re.DOTALL,
)
CHANGED = re.compile(rf"/login/?|{API}/(upload|queue/join|cancel|reset|run/[a-z_]+)/?")
MESSAGE_BYTES = 2**20  # of a request that is no upload: names of files, and what is chosen
FORM_BYTES = 2**16  # of an upload, beside the file
KEPT_UPLOADS = 20  # of the largest size, before the next one has to wait for an old one to be removed


def is_loopback(host: str) -> bool:
    """Whether an address to serve at can be reached from this machine alone."""
    if host in LOOPBACK:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """Refuses requests of strangers, and puts the policy on every answer. An ASGI middleware.

    Args:
        hosts: names that the page is reached by, without ports.
        uploads: where Gradio keeps uploaded files.
        upload_bytes: of the largest file that may be uploaded.
    """

    def __init__(self, app: App, hosts: Iterable[str], uploads: Path, upload_bytes: int) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._uploads, self._upload_bytes = uploads, upload_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        reason = self._refusal(scope, headers)
        if reason:
            await _refuse(scope, receive, send, 403, reason)
            return
        method = scope.get("method", "GET")
        known = READ if method in READING else CHANGED
        if method not in (*READING, "POST") or not known.fullmatch(scope["path"]):
            await _refuse(scope, receive, send, 404, "not a part of this page")
            return
        most = MESSAGE_BYTES
        if scope["type"] == "http" and scope["path"].rstrip("/").endswith(UPLOAD):
            most = self._upload_bytes + FORM_BYTES
            if _bytes_in(self._uploads) > KEPT_UPLOADS * self._upload_bytes:
                await _refuse(scope, receive, send, 413, "too many files are kept here; they go in an hour")
                return
        announced = whole(headers.get("content-length", "0"))
        if announced is None or announced > most:
            await _refuse(scope, receive, send, 413, f"more than {most:,} bytes at once")
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [pair for pair in message.get("headers", []) if pair[0].decode().lower() not in HEADERS]
                message["headers"] = own + [(k.encode(), v.encode()) for k, v in HEADERS.items()]
            await send(message)

        await self._app(scope, _counted(receive, most), send_with_policy)

    def _refusal(self, scope: Message, headers: dict[str, str]) -> str:
        """Why a request is refused; empty if it is not."""
        host = _name(f"//{headers.get('host', '')}")
        if host not in self._hosts:
            return f"host {host[:80]!r} is not known here. Start `safa app` with --allow-host {host[:80]}"
        origin = headers.get("origin")
        if origin is not None and _name(origin) not in self._hosts:
            return "requests from other sites are refused"
        # Another site may lead here by a link, and that is all.
        is_link = scope["type"] == "http" and scope["method"] in READING
        is_link = is_link and headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not is_link:
            return "requests from other sites are refused"
        return ""


def _name(url: str) -> str:
    """The host of a URL, without its port; empty if there is none."""
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def _bytes_in(folder: Path) -> int:
    """Bytes of all files below a folder; one that goes meanwhile has none."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def _counted(receive: Receive, most: int) -> Receive:
    """Hang up on a request whose body has more bytes, whatever it announced."""
    count = 0

    async def receive_counted() -> Message:
        nonlocal count
        message = await receive()
        count += len(message.get("body", b"")) if message["type"] == "http.request" else 0
        return {"type": "http.disconnect"} if count > most else message

    return receive_counted


async def _refuse(scope: Message, receive: Receive, send: Send, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    body = f"refused: {reason}\n".encode()
    headers = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(body)), **HEADERS}
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})
