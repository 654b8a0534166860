"""Mistakes in settings, what pydantic found, with keys as they were written and the nearest one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from safa.errors import UserError

MOST_OTHERS = 3  # keys that a message names beside the first


def explained(
    error: ValidationError, model: type[BaseModel], where: str, overrides: Sequence[str]
) -> UserError:
    """What is wrong with settings, as one line for the person who wrote them.

    Args:
        error: what pydantic found.
        where: the file that they are in.
        overrides: ``a.b=c`` that changed them.
    """
    wrong: dict[str, list[ErrorDetails]] = {}  # a value that fits none of several types is wrong once
    for each in error.errors():
        wrong.setdefault(_as_written(each["loc"], model)[0], []).append(each)
    key, first = next((key, each[0]) for key, each in wrong.items())
    if kind := _of_another_kind(wrong, model, overrides):
        return kind
    where = next((f"--set {each}" for each in overrides if _is_about(each, key)), where)
    more = _others([other for other in wrong if other != key])
    if first["type"] == "extra_forbidden":
        nearest = _nearest(key, model)
        meant = f"Did you mean '{nearest}'?" if nearest else "Remove it."
        return UserError(f"unknown key '{key}'{more}", where, meant)
    if first["type"] == "missing":
        return UserError(f"missing key '{key}'{more}", where, "Add it.")
    if first["type"] == "union_tag_not_found":
        return UserError(f"missing key '{key}.kind'{more}", where, "Add it.")
    if first["type"] == "union_tag_invalid":
        fix = f"Choose one of {first['ctx']['expected_tags'].replace(chr(39), '')}."
        return UserError(f"key '{key}.kind' is '{first['ctx']['tag']}'{more}", where, fix)
    if first.get("ctx", {}).get("says_all"):  # it is not about this key alone
        return UserError(first["msg"].removeprefix("Value error, "), where, first["ctx"]["fix"])
    shown = repr(first.get("input"))
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    fix = first.get("ctx", {}).get("fix", "Correct the value.")
    return UserError(f"key '{key}' is {shown}: {_reasons(wrong[key])}{more}", where, fix)


def _of_another_kind(
    wrong: Mapping[str, Sequence[ErrorDetails]],
    model: type[BaseModel],
    overrides: Sequence[str],
) -> UserError | None:
    """Explain ``--set a.kind=b`` where the other keys of section a are those of another kind."""
    for key, (first, *_) in wrong.items():
        section, _, leaf = key.rpartition(".")
        changed = next((each for each in overrides if each.partition("=")[0] == f"{section}.kind"), None)
        if changed is None or first["type"] != "extra_forbidden":
            continue
        branch = _as_written(first["loc"][:-1], model)[1]
        needed = [name for name in _required(branch) if name != "kind"]
        whole = ", ".join([f"kind: {changed.partition('=')[2]}", *(f"{name}: ..." for name in needed)])
        return UserError(
            f"'{leaf}' in section '{section}' belongs to another kind",
            f"--set {changed}",
            f"Give the section as a whole: --set '{section}={{{whole}}}'.",
        )
    return None


def _reasons(errors: Sequence[ErrorDetails]) -> str:
    """What is wrong with a value, in the words of each type that it could have had."""
    first, *others = [each["msg"].removeprefix("Value error, ") for each in errors]
    return " or ".join([first, *(each.removeprefix("Input should be ") for each in others)])


def _others(keys: Sequence[str]) -> str:
    """Name further keys that are wrong, as many as a line has room for."""
    if not keys:
        return ""
    rest = f" and {len(keys) - MOST_OTHERS} more" if len(keys) > MOST_OTHERS else ""
    return f" (also wrong: {', '.join(keys[:MOST_OTHERS])}{rest})"


def _is_about(override: str, key: str) -> bool:
    """Whether ``a.b=value`` set this key, a section that it is in, or a part of it."""
    changed = override.partition("=")[0]
    return f"{key}.".startswith(f"{changed}.") or changed.startswith(f"{key}.")


def _nearest(key: str, model: type[BaseModel]) -> str | None:
    """The key that somebody most likely meant: spelt alike, or the same name in another section."""
    keys = sorted(set(_keys(model)) - {key})
    leaf = key.rpartition(".")[2]
    elsewhere = [known for known in keys if known.rpartition(".")[2] == leaf]
    return next(iter(difflib.get_close_matches(key, keys, n=1) or elsewhere), None)


def _keys(annotation: Any, prefix: str = "") -> Iterator[str]:
    """Every key, dotted, that a settings model has, or that any of the models in a union has."""
    if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        for part in get_args(annotation):
            yield from _keys(part, prefix)
        return
    for name, field in annotation.model_fields.items():
        yield prefix + name
        yield from _keys(field.annotation, f"{prefix}{name}.")


def _required(annotation: Any) -> list[str]:
    """The keys that a section cannot do without."""
    return [
        name
        for each in _models(annotation)
        for name, field in each.model_fields.items()
        if field.is_required()
    ]


def _as_written(place: Sequence[int | str], model: type[BaseModel]) -> tuple[str, Any]:
    """The key of an error as the file has it, and the annotation that is found there.

    Pydantic names the branches of unions as well: the value of ``kind``, or the type that a value could be.
    """
    parts: list[str] = []
    annotation: Any = model
    for part in place:
        models = _models(annotation)
        if isinstance(part, int):
            parts.append(str(part))
            continue
        chosen = [each for each in models if part in get_args(_annotation(each, "kind"))]
        if len(models) > 1 and chosen:
            annotation = chosen[0]
        elif models:
            parts.append(part)
            annotation = next((_annotation(each, part) for each in models if part in each.model_fields), None)
    return ".".join(parts), annotation


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The settings models in an annotation: several in a union, none in that of a single value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _annotation(model: type[BaseModel], name: str) -> Any:
    return model.model_fields[name].annotation if name in model.model_fields else None
