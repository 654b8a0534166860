"""Paths on this machine as people write them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from safa.errors import UserError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def expanded(text: str | os.PathLike[str]) -> Path:
    """A path with the person's home folder in place of ``~``, as a shell would put it.

    Raises:
        ValueError: nothing is written.
    """
    if not os.fspath(text):
        raise ValueError("is empty: give a path")
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:  # there is no such user, so it is the name of a folder
        return path


def local_path(text: str | os.PathLike[str], where: str) -> Path:
    """A path on this machine that a person wrote, with their home folder in place of ``~``.

    Args:
        where: what it is the path of, for messages.

    Raises:
        UserError: it is empty, or a URI.
    """
    try:
        path = expanded(text)
    except ValueError as error:
        raise UserError(str(error), where) from None
    refuse_uri(path, where)
    return path


def refuse_uri(path: Path, where: str) -> None:
    """Refuse a path that was written as a URI, where only a path works.

    Raises:
        UserError: it begins with a scheme, as ``s3:/`` (``Path`` joins the two slashes).
    """
    if _SCHEME.match(str(path)):
        uri = str(path).replace(":/", "://", 1)
        raise UserError(f"only a path works here, not the address {uri}", where, "Copy it to a disk first.")
