"""The limits of one pickle: how much it may build, what may be a key, and the errors that refuse it."""

from __future__ import annotations

import numpy as np

MOST_WEIGHT_PER_BYTE = 8
FREE_WEIGHT = 16 << 20  # bytes; small files may hold shapes that cost more than a file of their size
FREE_STEPS = 1_000_000
CHANGED = "its bytes are not those that were written (CRC-32)"


class Damaged(ValueError):
    """The bytes are no pickle, or one that was cut or changed."""


class Forbidden(ValueError):
    """The pickle asks for something that plain data does not need."""


class Work:
    """Counts what reading a file costs. Every bound is a small multiple of the file's size.

    A pickle can name one object many times, so without a count a short file could ask for any number of
    copies of a long array.

    Args:
        size: bytes of the file.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.steps_left = FREE_STEPS + size // 2
        self._weight_left = FREE_WEIGHT + MOST_WEIGHT_PER_BYTE * size

    def weigh(self, weight: int) -> None:
        """Count about ``weight`` bytes of memory.

        Raises:
            Forbidden: more than such a file may take.
        """
        self._weight_left -= weight
        if self._weight_left < 0:
            raise Forbidden(f"it would unfold to far more than its {self.size} bytes")


def shown(name: str) -> str:
    """A name out of a file, fit to be printed: ASCII alone, and short."""
    return ascii(name[:80])[1:-1]


LARGEST_KEY = 1 << 64
KINDS = frozenset({type(None), bool, float, str, bytes})
NUMPY_KINDS = (np.bool_, np.integer, np.floating, np.str_, np.bytes_)


def check_key(key: object) -> None:
    """Refuse what is no key of plain data: keys are numbers, strings and ``None``.

    Long whole numbers and tuples are left out because a file could choose any number of one hash, and
    because hashing a deep tuple ends the process.

    Raises:
        Forbidden: it is not.
    """
    kind = type(key)
    if kind in KINDS or isinstance(key, NUMPY_KINDS):
        return
    if type(key) is int and -LARGEST_KEY < key < LARGEST_KEY:
        return
    raise Forbidden(f"it uses {kind.__name__} as a key, which is not plain data")
