"""What one pickle may cost, and how it is refused."""

from __future__ import annotations

MOST_WEIGHT_PER_BYTE = 8
FREE_WEIGHT = 16 << 20  # bytes; small files may hold shapes that cost more than a file of their size
FREE_STEPS = 1_000_000


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
