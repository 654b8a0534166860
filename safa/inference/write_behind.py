"""Frames that are written in a thread of their own, while the next ones are computed in the caller's.

The model stays in the thread that asked for it: from another one, where torch has to start other threads,
a frame takes a tenth longer on two cores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import Queue

from safa.data.video import Frame

QUEUE_LENGTH = 4  # frames that the writer may lag behind


class WriteBehind:
    """Runs a function that writes frames, in a thread that takes them as they come.

    Args:
        write: takes the frames, and gives their number. It is left with an error when it shall leave no file.
    """

    def __init__(self, write: Callable[[Iterator[Frame]], int]) -> None:
        self._queue: Queue[Frame | None] = Queue(QUEUE_LENGTH)  # None is the end
        self._ended = self._aborted = False
        self._error: BaseException | None = None
        self._written = 0
        self._thread = threading.Thread(target=self._run, args=(write,), daemon=True)
        self._thread.start()

    def add(self, frame: Frame) -> None:
        """Write the next frame; raise the error if writing one before it failed."""
        if self._error is not None:
            raise self._error
        self._queue.put(frame)

    def finish(self) -> int:
        """Wait until all frames are written, and give their number; raise the error if writing failed."""
        self._end()
        if self._error is not None:
            raise self._error
        return self._written

    def abort(self) -> None:
        """Leave no file, since the frames have failed."""
        self._aborted = True
        self._end()

    def _end(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self, write: Callable[[Iterator[Frame]], int]) -> None:
        try:
            self._written = write(self._frames())
        except BaseException as error:  # raised again where somebody adds a frame or waits for the end
            self._error = error
        while not self._ended:  # whoever adds frames must not wait for a writer that has failed
            self._ended = self._queue.get() is None

    def _frames(self) -> Iterator[Frame]:
        while (frame := self._queue.get()) is not None:
            yield frame
        self._ended = True
        if self._aborted:
            raise RuntimeError("the frames have failed")
