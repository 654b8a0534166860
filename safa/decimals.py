"""Whole numbers in names and headers: the digits 0 to 9 and nothing else.

Python's own ``int`` and ``str.isdigit`` take the digits of every script, signs, blanks and underscores, so
that two names could mean one number.
"""

from __future__ import annotations

import re

_WHOLE = re.compile("[0-9]{1,18}")


def whole(text: str) -> int | None:
    """The number that a text is, 18 digits at most; None where it is anything else."""
    return int(text) if _WHOLE.fullmatch(text) else None
