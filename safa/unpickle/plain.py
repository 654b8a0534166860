"""The last look at what a pickle gave: plain data alone, and no more than can be walked."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import Any

import numpy as np
import torch

from safa.unpickle.arrays import InertRecord
from safa.unpickle.symbols import described
from safa.unpickle.work import Damaged, Forbidden

DEEPEST = 100  # levels of nesting
FREE_PARTS = 1_000_000
MOST_PARTS_PER_BYTE = 4
LEAVES = frozenset({type(None), bool, int, float, str, bytes, bytearray, torch.Tensor})
_UNDERWAY = (0, 0)


def check_plain(value: object, size: int) -> None:
    """Refuse a value that is not plain data all through, or that a reader could not walk.

    An object that a file names many times is one object in memory, but a reader who walks the value meets it
    each time. So its parts are counted as often as they are met.

    Args:
        value: what the interpreter built.
        size: bytes of the file.

    Raises:
        Forbidden: a constructor or half-made object among the data, too deep, or too many parts.
        Damaged: something that contains itself.
    """
    if _is_leaf(value):
        return
    known: dict[int, tuple[int, int]] = {}  # depth and parts of what was looked at, by identity
    waiting = [value]
    while waiting:
        item = waiting[-1]
        seen = known.get(id(item))
        if seen is not None and seen is not _UNDERWAY:
            waiting.pop()
            continue
        count, inner = _parts(item)
        if seen is None:
            known[id(item)] = _UNDERWAY
            unseen = [part for part in inner if known.get(id(part), _UNDERWAY) is _UNDERWAY]
            if any(id(part) in known for part in unseen):
                raise Damaged("something in it contains itself")
            if unseen:
                waiting.extend(unseen)
                continue
        known[id(item)] = _measured(count, [known[id(part)] for part in inner], size)


def _measured(count: int, inner: list[tuple[int, int]], size: int) -> tuple[int, int]:
    depth = 1 + max((depth for depth, _ in inner), default=0)
    parts = 1 + count + sum(parts for _, parts in inner)
    if depth > DEEPEST:
        raise Forbidden(f"it is nested more than {DEEPEST} deep")
    if parts > FREE_PARTS + MOST_PARTS_PER_BYTE * size:
        raise Forbidden(f"it would unfold to far more than its {size} bytes")
    return depth, parts


def _parts(item: object) -> tuple[int, list[Any]]:
    """How many parts an object has, and those that have parts of their own."""
    parts: Collection[Any]
    if type(item) in (list, tuple):
        parts = item  # type: ignore[assignment]
    elif type(item) in (dict, OrderedDict):
        parts = item.values()  # type: ignore[attr-defined]
    elif type(item) is set or type(item) is frozenset:
        return len(item), []  # members are keys
    elif isinstance(item, InertRecord):
        parts = vars(item).values()
    elif isinstance(item, np.ndarray):  # of objects: others are leaves
        parts = item.reshape(-1).tolist()
    else:
        raise Forbidden(f"it holds {described(item)}, which is not plain data")
    return len(parts), [part for part in parts if not _is_leaf(part)]


def _is_leaf(value: object) -> bool:
    if type(value) in LEAVES or isinstance(value, np.generic):
        return True
    return type(value) is np.ndarray and value.dtype.kind != "O"
