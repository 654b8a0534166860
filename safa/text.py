"""What messages and reports have in common: numbers with their nouns, and how to install what is missing."""

from __future__ import annotations

# How to install things from a clone of the repository: `safa` on the package index is another project.
INSTALL = "make install"
INSTALL_APP = ".venv/bin/python -m pip install -e '.[app]'"
INSTALL_FACES = ".venv/bin/python -m pip install -e '.[faces]'"
INSTALL_DOWNLOAD = ".venv/bin/python -m pip install -e '.[download]'"


def count(number: int, noun: str, plural: str = "") -> str:
    """Say how many there are: ``1 clip``, ``2 clips``.

    Args:
        plural: of a noun that does not take an ``s``, e.g. ``people``.
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """Say how long something took: ``4.2 s``, ``3 min 05 s`` or ``2 h 07 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
