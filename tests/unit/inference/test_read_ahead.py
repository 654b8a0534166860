from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from safa.inference.read_ahead import read_ahead


def test_items_come_in_order_from_another_thread() -> None:
    threads = set()

    def items() -> Iterator[int]:
        for number in range(50):
            threads.add(threading.get_ident())
            yield number

    assert list(read_ahead(items(), 3)) == list(range(50))
    assert threads
    assert threading.get_ident() not in threads


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("broken")

    stream = read_ahead(items(), 3)
    assert next(stream) == 1
    with pytest.raises(OSError, match="broken"):
        next(stream)


def test_a_reader_that_stops_ends_the_thread_and_closes_the_items() -> None:
    drawn, closed = [], threading.Event()

    def items() -> Iterator[int]:
        try:
            while True:
                drawn.append(1)
                yield 0
        finally:
            closed.set()

    before = threading.active_count()
    stream = read_ahead(items(), 2)
    next(stream)
    stream.close()
    assert closed.is_set()
    assert threading.active_count() == before
    assert len(drawn) <= 5  # one taken, two waiting, one in hand, one for the place that closing makes
