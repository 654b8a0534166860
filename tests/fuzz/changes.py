"""Bytes of samples, changed at random."""

from __future__ import annotations

import random
from collections.abc import Sequence

LONGEST = 2**20  # bytes


def changed(chance: random.Random, samples: Sequence[bytes], longest: int = LONGEST) -> bytes:
    """A sample with a few bytes changed, taken out, put in, or replaced by a piece of another sample."""
    data = bytearray(chance.choice(samples))
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(len(data) + 1)
        length = chance.choice((1, 1, 1, 2, 4, 16))
        other = chance.choice(samples)
        start = chance.randrange(len(other))
        data[at : at + chance.choice((0, length))] = chance.choice(
            (
                chance.randbytes(length),
                other[start : start + length],
                bytes([chance.choice(b"\x00\x01\x7f\x80\xff")]),
            )
        )
    return bytes(data[:longest])
