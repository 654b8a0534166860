"""A proxy before an S3 server that answers with errors, or not at all."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

STALL = 0  # instead of a status
# Whether a request meets the fault, by its number.
Chosen = Callable[[int], bool]


class FailingStore:
    """Passes bytes on to a server; requests that are chosen meet the fault.

    Args:
        server: host and port.
        status: of the answer, e.g. 503; or ``STALL``: none ever comes.
    """

    def __init__(self, server: str, status: int, chosen: Chosen) -> None:
        host, _, port = server.rpartition(":")
        self._server, self._status, self._chosen = (host, int(port)), status, chosen
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._ended, self._lock = threading.Event(), threading.Lock()
        self.requests = self.faults = 0
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Refuse connections from now on, and end those that stall."""
        self._ended.set()
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._listening.accept()[0]
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(self._server) as server:
            while not self._ended.is_set():
                for ready in select.select([client, server], [], [], 1.0)[0]:
                    data = ready.recv(2**20)
                    if not data:
                        return
                    if ready is client and self._meets_fault(data):
                        self._fail(client)
                        return
                    (server if ready is client else client).sendall(data)

    def _meets_fault(self, data: bytes) -> bool:
        if b" HTTP/1.1\r\n" not in data[:4096]:  # more of a body
            return False
        with self._lock:
            self.requests += 1
            found = self._chosen(self.requests)
            self.faults += found
        return found

    def _fail(self, client: socket.socket) -> None:
        if self._status == STALL:
            self._ended.wait()
            return
        head = f"HTTP/1.1 {self._status} Fault\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        client.sendall(head.encode())


@contextmanager
def failing_store(server: str, status: int, chosen: Chosen = lambda number: True) -> Iterator[FailingStore]:
    """A proxy for the block."""
    store = FailingStore(server, status, chosen)
    try:
        yield store
    finally:
        store.close()
