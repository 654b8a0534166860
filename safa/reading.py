"""The boundary around every reader of a stranger's file: bytes are bounded, and any error is one line.

Parsers raise what they like: a YAML file can end in a ``RecursionError``, a Parquet footer in an ``OSError``,
a pickle in a ``struct.error``. ``boundary`` makes one line of all of them, which names the file.
``read_limited`` reads no more than the bound of ``safa.limits``, and only regular files: a pipe would wait
for ever, and ``/dev/zero`` has no end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safa.errors import ClipError, UserError
from safa.files import Location, check_regular, filesystem, is_uri, reporting_errors, shown
from safa.limits import limit, over_limit

_BLOCK = 2**20
_REASON = 200  # characters of a parser's own words
_DEEPEST = 64  # levels of nesting in JSON; our own files have eight


@contextmanager
def boundary(where: str, what: str, fix: str = "") -> Iterator[None]:
    """Turn whatever the block raises into one line, but for errors that are one already.

    Args:
        where: the file, and the key or line in it.
        what: what it is not, e.g. ``"not a readable Parquet file"``; the parser's reason is added.
        fix: what the user can do.

    Raises:
        UserError: in place of any other exception of the block.
    """
    try:
        yield
    except (UserError, ClipError):
        raise
    except MemoryError:
        raise UserError(f"{what} (it asks for more memory than there is)", where, fix) from None
    except RecursionError:
        raise UserError(f"{what} (it is nested too deeply)", where, fix) from None
    except Exception as error:  # parsers raise anything; the file is at fault, or the disk
        raise UserError(f"{what} ({reason_of(error)})", where, fix) from None


def reason_of(error: BaseException) -> str:
    """An exception's own words in one short line; its type where it has none."""
    text = (getattr(error, "strerror", None) or str(error)).strip().partition("\n")[0]
    return text[:_REASON] or type(error).__name__


def read_limited(location: Location, bound: str) -> bytes:
    """Read a whole file of at most the bytes that ``safa.limits`` allows under the name ``bound``.

    The bytes that come are counted, whatever size the file system claims.

    Raises:
        UserError: no such file, not a regular file, more bytes, or the disk or store refuses.
    """
    if not is_uri(location):
        check_regular(Path(location))
    most, blocks, count = limit(bound), [], 0
    store, path = filesystem(location)
    with reporting_errors(location), store.open_input_stream(path) as file:
        while block := file.read(_BLOCK):
            blocks.append(block)
            count += len(block)
            if count > most:
                raise over_limit(bound, shown(location))
    return b"".join(blocks)


def read_text_limited(location: Location, bound: str) -> str:
    """Read a whole UTF-8 file, as ``read_limited``; a byte order mark is left out.

    Raises:
        UserError: as ``read_limited``, or it is not UTF-8.
    """
    data = read_limited(location, bound)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"not UTF-8 text (byte {error.start})", shown(location), "Save it as UTF-8."
        ) from None


def read_json(location: Location, bound: str = "record_bytes") -> dict[str, Any]:
    """Read a JSON file that holds one object of plain, finite values.

    Raises:
        UserError: as ``read_limited``, or it is no such JSON.
    """
    return parse_json(read_text_limited(location, bound), shown(location))


def parse_json(text: str, where: str) -> dict[str, Any]:
    """Parse JSON text that is one object of plain, finite values, nested at most 64 deep.

    Raises:
        UserError: it is anything else; ``where`` names its origin.
    """
    with boundary(where, "not valid JSON"):
        value = json.loads(text, parse_constant=_no_constant)
        if not isinstance(value, dict):
            raise UserError("not a JSON object", where)
        _check_depth(value, where)
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _check_depth(value: Any, where: str) -> None:
    """Refuse deep nesting, and numbers such as 1e400 that are infinite once read."""
    level = [value]
    for _ in range(_DEEPEST):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
                below.extend(item)
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, float) and item in (float("inf"), float("-inf")):
                raise UserError("not valid JSON (a number beyond all range)", where)
            elif isinstance(item, str):
                item.encode()  # half of a character can be written in JSON, and in no file
        if not below:
            return
        level = below
    raise UserError(f"not valid JSON (nested more than {_DEEPEST} deep)", where)
