"""Which setting names a file or folder: errors about it say so."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safa.config.loader import Settings
from safa.errors import UserError
from safa.files import Location, absolute, is_uri, shown


@contextmanager
def naming_keys(settings: Settings, outputs: Collection[str] = ()) -> Iterator[None]:
    """Let an error of the block about a location that a setting names say which setting that is.

    Args:
        outputs: keys that are left out, in whatever section; whoever began a run knows where it writes.

    Raises:
        UserError: the same one, with the key before its location.
    """
    try:
        yield
    except UserError as error:
        keys = _keys_of(settings, error.where, outputs)
        if not keys:
            raise
        raise UserError(error.what, f"{' or '.join(keys)}: {error.where}", error.fix) from None


def _keys_of(settings: Settings, where: str, outputs: Collection[str]) -> list[str]:
    """The settings that are this very location and were written by somebody."""
    return [
        key
        for key, at in _locations(settings)
        if where and where in (shown(at), shown(absolute(at)))
        if key.rpartition(".")[2] not in outputs and not settings.is_derived(key)
    ]


def _locations(value: Any, key: str = "") -> Iterator[tuple[str, Location]]:
    """Every file and folder in settings, with its key."""
    if isinstance(value, Settings):
        for name, item in value:
            yield from _locations(item, f"{key}.{name}" if key else name)
    elif isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _locations(item, f"{key}.{number}")
    elif isinstance(value, Path) or (isinstance(value, str) and is_uri(value)):
        yield key, value
