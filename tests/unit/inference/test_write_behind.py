"""Frames that are written while the next ones are computed."""

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from safa.data.video import Frame
from safa.inference.write_behind import WriteBehind

FRAMES = [np.full((2, 2, 3), value, np.uint8) for value in range(50)]


def test_the_writer_gets_all_frames_in_order_in_another_thread() -> None:
    written, threads = [], set()

    def write(frames: Iterator[Frame]) -> int:
        for frame in frames:
            written.append(int(frame[0, 0, 0]))
            threads.add(threading.get_ident())
        return len(written)

    writer = WriteBehind(write)
    for frame in FRAMES:
        writer.add(frame)
    assert writer.finish() == 50
    assert written == list(range(50))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def add_for_ever(writer: WriteBehind) -> None:
    while True:
        writer.add(FRAMES[0])


def test_a_writer_that_fails_stops_whoever_adds_frames() -> None:
    def write(frames: Iterator[Frame]) -> int:
        next(frames)
        raise OSError("the disk is full")

    writer = WriteBehind(write)
    with pytest.raises(OSError, match="the disk is full"):
        add_for_ever(writer)
    writer.abort()  # ends, though the writer has ended before


def test_an_aborted_writer_sees_an_error_instead_of_an_end() -> None:
    seen: list[BaseException] = []

    def write(frames: Iterator[Frame]) -> int:
        try:
            return sum(1 for _ in frames)
        except BaseException as error:
            seen.append(error)
            raise

    writer = WriteBehind(write)
    writer.add(FRAMES[0])
    writer.abort()
    assert len(seen) == 1
