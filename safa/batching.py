"""Batches: any iterable as lists of a fixed length, without reading ahead of the one that is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of ``size`` items in order; the last list may be shorter.

    Exactly ``size`` items are drawn for each list, so that a stream is never read ahead. (Python has
    ``itertools.batched`` from 3.12 on.)

    Args:
        size: at least 1.
    """
    if size < 1:
        raise ValueError(f"batches need at least 1 item, not {size}")
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
