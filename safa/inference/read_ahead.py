"""Items that are made in a thread of their own, while the ones before them are in use."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable
from contextlib import suppress
from queue import Empty, Full, Queue
from typing import TypeVar

Item = TypeVar("Item")
LOOK_EVERY = 0.1  # seconds between two looks of the thread at whether anybody still wants its items


class _End:
    """The last thing in the queue, with the error that ended the items."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def read_ahead(items: Iterable[Item], length: int) -> Generator[Item, None, None]:
    """Yield the items in order; up to ``length`` of them, and the next, are made in advance.

    The thread starts with the first item asked for. It ends with the items, or when the generator is closed;
    an error of the items is raised here, after those before it.
    """
    queue: Queue[Item | _End] = Queue(length)
    closed = threading.Event()
    thread = threading.Thread(target=_fill, args=(queue, items, closed), daemon=True)
    thread.start()
    try:
        while not isinstance(item := queue.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        closed.set()
        with suppress(Empty):
            queue.get_nowait()  # so that a thread that waits for a place looks at once
        thread.join()


def _fill(queue: Queue[Item | _End], items: Iterable[Item], closed: threading.Event) -> None:
    error: BaseException | None = None
    iterator = iter(items)
    try:
        for item in iterator:
            if not _put(queue, item, closed):
                break
    except BaseException as caught:  # raised again where somebody waits for the items
        error = caught
    if isinstance(iterator, Generator):
        iterator.close()  # a video is closed by the thread that reads it
    _put(queue, _End(error), closed)


def _put(queue: Queue[Item | _End], item: Item | _End, closed: threading.Event) -> bool:
    """Put an item into the queue; False if nobody wants it any more."""
    while not closed.is_set():
        try:
            queue.put(item, timeout=LOOK_EVERY)
            return True
        except Full:
            continue
    return False
