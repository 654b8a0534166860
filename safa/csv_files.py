"""CSV lists from anyone, as spreadsheets and pandas write them, one line after the other.

Columns are separated by commas, semicolons or tabs. Every line is a row of its own: an opening quote that is
never closed spoils one row, not all that follow.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from safa.errors import UserError
from safa.files import Location, missing, open_text, reporting_errors, shown
from safa.limits import check_limit, limit, over_limit

SEPARATORS = (",", ";", "\t")
_WHOLE = re.compile(r"[+-]?[0-9]{1,15}(\.0*)?")
_NUMBER = re.compile(r"[+-]?[0-9]{1,15}(\.[0-9]*)?(e[+-]?[0-9]{1,2})?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One line of a list.

    Attributes:
        line: its number, from 1; the names of the columns stand in line 1.
        fields: text by column, without blanks around it; empty if there is a ``problem``.
        problem: why the line cannot be read; empty if it can.
    """

    line: int
    fields: dict[str, str]
    problem: str = ""


def read_csv(location: Location, columns: Sequence[str]) -> Iterator[CsvRow]:
    """Read the rows of a list that has at least these columns; empty lines are left out.

    Raises:
        UserError: it cannot be read, is not UTF-8, lacks a column, or passes the limit ``list_rows``.
    """
    try:
        with open_text(location) as file:
            lines = _lines(file, shown(location))
            separator, names = _header(next(lines, ""), columns, shown(location))
            for number, line in enumerate(lines, 2):
                check_limit("list_rows", number - 1, shown(location))
                if line.strip():
                    yield _row(number, line, separator, names)
    except FileNotFoundError:
        raise UserError(missing(location, "no such list"), shown(location), "Check the location.") from None
    except OSError as error:
        with reporting_errors(location):
            raise error from None
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read the list ({error})", shown(location), "Save it as UTF-8 CSV.") from None


def _lines(file: TextIO, where: str) -> Iterator[str]:
    longest = 64 * limit("list_field")
    while line := file.readline(longest):
        if len(line) == longest:
            raise over_limit("list_field", where)
        yield line.rstrip("\r\n")


def _header(line: str, columns: Sequence[str], where: str) -> tuple[str, list[str]]:
    """The separator with which the first line has most of the columns, and the columns' names."""
    split = {separator: [name.lower() for name in _split(line, separator)] for separator in SEPARATORS}
    separator = max(SEPARATORS, key=lambda each: len(set(columns) & set(split[each])))
    missing = [name for name in columns if name not in split[separator]]
    if missing:
        raise UserError(f"lacks the columns {', '.join(missing)}", where)
    return separator, split[separator]


def _split(line: str, separator: str) -> list[str]:
    try:
        fields = next(csv.reader([line], delimiter=separator, skipinitialspace=True, strict=True), [])
    except csv.Error:
        return []
    return [field.strip() for field in fields]


def _row(number: int, line: str, separator: str, names: Sequence[str]) -> CsvRow:
    values = _split(line, separator)
    if not values:
        return CsvRow(number, {}, "a quote is not closed")
    if len(values) != len(names):
        return CsvRow(number, {}, f"{len(values)} fields where line 1 has {len(names)}")
    if max(map(len, values)) > limit("list_field"):
        return CsvRow(number, {}, f"a field of more than {limit('list_field')} characters")
    return CsvRow(number, dict(zip(names, values, strict=True)))


def whole_number(text: str, name: str) -> int:
    """Read 70, and 70.0 as pandas writes it.

    Raises:
        ValueError: it is no whole number; ``name`` is that of the column.
    """
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{name} {text[:40]!r} is not a whole number")
    return int(text.partition(".")[0])


def number(text: str, name: str) -> float:
    """Read a number in decimal digits.

    Raises:
        ValueError: it is none; ``name`` is that of the column.
    """
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{name} {text[:40]!r} is not a number")
    return float(text)
