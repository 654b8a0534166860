"""What a contract test of settings is made of: rows, the keys that there are, and what must differ.

A row sets one option or key to two values, looks at the smallest real code that reads it, and says how the
two observations must differ.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
from pydantic import BaseModel

Relation = Callable[[Any, Any], bool]


@dataclass(frozen=True)
class Row:
    """One wire.

    Attributes:
        key: option or key, e.g. ``--fps`` or ``source[VideosSource].split``.
        one, other: the two values; a function is called with the world first.
        look: world and the settings (or the argument list) to what is observed.
        relation: whether the two observations differ as they should.
        changes: further settings that both sides share.
    """

    key: str
    one: Any
    other: Any
    look: Callable[..., Any]
    relation: Relation
    changes: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """For the test's id."""
        return f"{self.key}-{self.look.__name__.strip('_')}"


class Absent:
    """The value of a key that is left out."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = Absent()


# ---- relations --------------------------------------------------------------------------------------------


def same(a: Any, b: Any) -> bool:
    """Equality of plain values, arrays and tensors."""
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and bool(torch.equal(a, b))
    if hasattr(a, "shape"):
        return a.shape == b.shape and bool((a == b).all())
    return bool(a == b)


def are(one: Any, other: Any) -> Relation:
    """Exactly these two."""
    return lambda a, b: same(a, one) and same(b, other)


def differ(a: Any, b: Any) -> bool:
    """Where no more can be said of a tiny model without weights."""
    return not same(a, b)


def falls(a: Any, b: Any) -> bool:
    """To clearly less."""
    return b < a - 1e-6 * abs(a)


def rises(a: Any, b: Any) -> bool:
    """To clearly more."""
    return falls(b, a)


def times(factor: float) -> Relation:
    """A number that is multiplied by ``factor``."""
    return lambda a, b: abs(a) > 0 and abs(b - factor * a) <= 1e-4 * abs(factor * a)


# ---- what there is ----------------------------------------------------------------------------------------


def options_of(parser: argparse.ArgumentParser, command: str = "") -> Iterator[str]:
    """``animate --fps``, ``animate source``: each argument of each command by its longest name, less help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from options_of(child, f"{command} {name}".strip())
        elif not isinstance(action, argparse._HelpAction | argparse._VersionAction):
            names = action.option_strings or [action.dest]
            yield f"{command} {max(names, key=len)}"


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The settings models that a field may hold, in order."""
    if isinstance(annotation, type) and not get_args(annotation):
        return [annotation] if issubclass(annotation, BaseModel) else []
    parts = [model for part in get_args(annotation) for model in _models(part)]
    return list(dict.fromkeys(parts))


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key of a config, through all sections and all branches of what is chosen by ``kind``.

    A choice is one key, ``source.kind``; keys of its branches carry the branch, ``source[ClipsSource].fps``.
    """
    for name, field in model.model_fields.items():
        branches = _models(field.annotation)
        if not branches:
            yield prefix + name
        elif len(branches) == 1:
            yield from keys_of(branches[0], f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}.kind"
            for branch in branches:
                keys = keys_of(branch, f"{prefix}{name}[{branch.__name__}].")
                yield from (key for key in keys if not key.endswith("].kind"))


def plain_key(key: str) -> str:
    """``source[ClipsSource].fps`` to ``source.fps``, as a config writes it."""
    while "[" in key:
        before, _, rest = key.partition("[")
        key = before + rest.partition("]")[2]
    return key


def with_key(data: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Nested plain settings with one key changed or left out."""
    name, _, rest = plain_key(key).partition(".")
    changed = dict(data)
    if rest:
        changed[name] = with_key(changed.get(name) or {}, rest, value)
    elif isinstance(value, Absent):
        changed.pop(name, None)
    else:
        changed[name] = value
    return changed


class Table:
    """The rows of one program."""

    all: ClassVar[dict[str, Table]] = {}

    def __init__(self, program: str, rows: Iterable[Row], cannot_be_seen: Mapping[str, str]) -> None:
        self.program, self.rows, self.cannot_be_seen = program, tuple(rows), dict(cannot_be_seen)
        Table.all[program] = self

    def missing(self, known: Iterable[str]) -> list[str]:
        """Keys with neither a row nor a reason."""
        covered = {row.key for row in self.rows} | set(self.cannot_be_seen)
        return [key for key in known if key not in covered]

    def unknown(self, known: Iterable[str]) -> list[str]:
        """Rows and reasons of keys that are not there, or of both kinds."""
        rows = {row.key for row in self.rows}
        both = sorted(rows & set(self.cannot_be_seen))
        return sorted((rows | set(self.cannot_be_seen)) - set(known)) + both


def check(world: Any, row: Row, look: Callable[[Any], Any]) -> None:
    """Assert that the two values make the difference that the row states.

    Args:
        look: a value of the key to what is observed.
    """
    values = [value(world) if callable(value) else value for value in (row.one, row.other)]
    first, second = (look(value) for value in values)
    assert row.relation(first, second), (
        f"{row.key}: {values[0]!r} gives {_short(first)}, {values[1]!r} gives {_short(second)}"
    )


def _short(seen: Any) -> str:
    text = repr(seen)
    return text if len(text) < 400 else text[:400] + "..."
