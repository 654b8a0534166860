"""What may be a key of a dictionary or a member of a set."""

from __future__ import annotations

import numpy as np

from safa.unpickle.work import Forbidden

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
