"""A host of videos on loopback that misbehaves in every way that the web does."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BOT_PAGE = (
    b"<html><body>Our systems have detected unusual traffic. Sign in to confirm you are not a bot.</body>"
)
PLAIN_PAGE = b"<!doctype html><html><body>Welcome to our web site</body></html>"


@dataclass
class Behaviour:
    """What is done for each id (a file's name without its ending); the default is to serve the file.

    ``count`` counts requests; ``redirects`` leads ids to other addresses; ``flaky`` ids fail that often
    before they work.
    """

    folder: Path
    ways: dict[str, str] = field(default_factory=dict)
    flaky: dict[str, int] = field(default_factory=dict)
    redirects: dict[str, str] = field(default_factory=dict)
    count: Counter[str] = field(default_factory=Counter)
    stall_s: float = 3.0
    slow_s: float = 0.0


# Way -> code, body, content type.
PAGES = {
    "bot": (403, BOT_PAGE, "text/html"),
    "page": (200, PLAIN_PAGE, "text/html"),
    **{str(code): (code, b"no", "text/plain") for code in (403, 404, 410, 429, 500)},
}


class _Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour

    def log_message(self, format: str, *arguments: object) -> None:
        """Tests are quiet."""

    def do_HEAD(self) -> None:
        self.answer(head=True)

    def do_GET(self) -> None:
        self.answer(head=False)

    def answer(self, *, head: bool) -> None:
        behaviour = self.behaviour
        name = self.path.strip("/").removesuffix(".mp4")
        behaviour.count[name] += not head
        if name in behaviour.redirects:
            self.send_response(302)
            self.send_header("Location", behaviour.redirects[name])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        time.sleep(behaviour.slow_s)
        way = behaviour.ways.get(name, "")
        if behaviour.flaky.get(name, 0) >= behaviour.count[name] > 0:
            way = "429"
        path = behaviour.folder / f"{name}.mp4"
        if not path.is_file() and way not in PAGES:
            way = "404"
        if way in PAGES:
            code, data, kind = PAGES[way]
        else:
            code, data, kind = 200, path.read_bytes(), "video/mp4"
        self.begin(code, kind, len(data))
        if head:
            return
        broken = way in ("truncated", "stalled")
        self.wfile.write(data[: len(data) // 2] if broken else data)
        if way == "stalled":
            self.wfile.flush()
            time.sleep(behaviour.stall_s)

    def begin(self, code: int, kind: str, length: int) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        if code == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """The host's address, ``http://127.0.0.1:port``."""
    handler = type("Handler", (_Handler,), {"behaviour": behaviour})
    server = _QuietServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what these tests are about."""
