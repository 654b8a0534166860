"""Mistakes in settings, in words: what pydantic found, with keys as they were written and the nearest one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from safa.errors import UserError

MOST_OTHERS = 3  # keys that a message names beside the first
LONGEST_VALUE = 60  # characters of a value that a message shows
ALIKE = 0.75  # a key of another section is proposed if it is spelt so much like the wrong one
# Pydantic's names of types, and those of people who write YAML.
TYPES = {
    "a valid array": "a list",
    "an object": "a section of keys",
    "a valid integer": "a whole number",
    "a valid string": "text",
    "a valid number": "a number",
    "a valid boolean": "true or false",
}


@dataclass(frozen=True)
class Mistake:
    """One key that is wrong.

    Attributes:
        key: as the file has it, dotted.
        errors: what pydantic says: several where the value fits none of several types.
        annotation: of the key's value; None if there is no such key.
        section: the settings that the key is in, or should be.
        union: the kinds that this section could be of, itself among them.
    """

    key: str
    errors: tuple[ErrorDetails, ...]
    annotation: Any
    section: type[BaseModel]
    union: tuple[type[BaseModel], ...]

    @property
    def kind(self) -> str:
        """Pydantic's name for what is wrong."""
        return self.errors[0]["type"]

    @property
    def leaf(self) -> str:
        """The key without the sections that it is in."""
        return self.key.rpartition(".")[2]

    @property
    def reason(self) -> str:
        """What is wrong with the value, in the words of each type that it could have had, or in ours."""
        ours = [each for each in self.errors if each["type"] in ("value_error", "demo")]
        first, *others = map(_in_words, ours or self.errors)
        return " or ".join([first, *(each.removeprefix("Input should be ") for each in others)])


def explained(
    error: ValidationError,
    model: type[BaseModel],
    where: str,
    data: object,
    overrides: Sequence[str],
    derived: Callable[[str], bool],
) -> UserError:
    """What is wrong with settings, as one line for the person who wrote them.

    Args:
        error: what pydantic found.
        where: the file that they are in.
        data: the settings as plain data.
        overrides: ``a.b=c`` that changed them.
        derived: whether a key is filled in by the program, so that nobody can write it.
    """
    first, *others = _mistakes(error, model)
    if first.errors[0].get("ctx", {}).get("says_all"):  # it is not about this key alone
        return UserError(first.reason, _origin(first, where, overrides), first.errors[0]["ctx"]["fix"])
    what, fix = _what_and_fix(first, model, data)
    what += _and_others(first, [each.key for each in others if not derived(each.key)])
    if changed := _changed_kind(first, overrides):
        section, _, kind = changed.partition(".kind=")
        return UserError(what, f"--set {changed}", _whole(section, kind, first, derived))
    return UserError(what, _origin(first, where, overrides), fix)


# ---- what is wrong -----------------------------------------------------------------------------------------


def _mistakes(error: ValidationError, model: type[BaseModel]) -> list[Mistake]:
    found: dict[str, Mistake] = {}
    for each in error.errors():
        mistake = _mistake(each, model)
        errors = (*found[mistake.key].errors, each) if mistake.key in found else (each,)
        found[mistake.key] = Mistake(mistake.key, errors, mistake.annotation, mistake.section, mistake.union)
    return list(found.values())


def _mistake(error: ErrorDetails, model: type[BaseModel]) -> Mistake:
    """Follow an error's place through the models.

    Pydantic names the branches of unions as well: the value of ``kind``, or the type that a value could be.
    """
    keys: list[str] = []
    annotation: Any = model
    section = model
    union: tuple[type[BaseModel], ...] = (model,)
    kinds: tuple[type[BaseModel], ...] = ()
    for part in error["loc"]:
        models = _models(annotation)
        if isinstance(part, int):
            keys.append(str(part))
            continue
        if not models:  # a value, of which this is a type
            continue
        chosen = [each for each in models if part in _kinds_of(each)]
        if len(models) > 1 and chosen:
            annotation, kinds = chosen[0], models
            continue
        keys.append(part)
        section = next((each for each in models if part in each.model_fields), models[0])
        union, kinds = kinds or models, ()
        annotation = section.model_fields[part].annotation if part in section.model_fields else None
    return Mistake(".".join(keys), (error,), annotation, section, union)


def _models(annotation: Any) -> tuple[type[BaseModel], ...]:
    """The settings models in an annotation: several in a union, none in that of a single value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    return tuple(model for part in get_args(annotation) for model in _models(part))


def _kinds_of(model: type[BaseModel]) -> tuple[str, ...]:
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field else ()


# ---- in words ----------------------------------------------------------------------------------------------


def _what_and_fix(mistake: Mistake, model: type[BaseModel], data: object) -> tuple[str, str]:
    key, error = mistake.key, mistake.errors[0]
    context = error.get("ctx", {})
    match mistake.kind:
        case "extra_forbidden":
            return f"unknown key '{key}'", _instead(mistake, model, data)
        case "missing" if isinstance(error["loc"][-1], int):
            count = _values_of(mistake.annotation)
            return f"key '{key.rpartition('.')[0]}' has fewer values than {count}", "Add the others."
        case "missing":
            return f"missing key '{key}'", "Add it."
        case "union_tag_not_found":
            return f"missing key '{key}.kind'", "Add it."
        case "union_tag_invalid":
            kind = error["input"].get("kind") if isinstance(error["input"], dict) else error["input"]
            fix = f"Choose one of {context['expected_tags'].replace(chr(39), '')}."
            return f"key '{key}.kind' is {_shown(kind)}", fix
        case "json_invalid":
            return "is nested too deeply", "Write fewer levels."
    fix = context.get("fix", "Correct the value.")
    if not key:  # of several keys, which the reason names
        return mistake.reason, context.get("fix", "Correct one of them.")
    value = "" if isinstance(error.get("input"), dict) else f" is {_shown(error.get('input'))}"
    return f"key '{key}'{value}: {mistake.reason}", fix


def _in_words(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    if error["type"] == "string_pattern_mismatch":
        return "it is no name: use letters, digits, _ and -, first a letter or a digit"
    if error["type"] == "too_long":
        return f"it has {context['actual_length']} values, and may have {context['max_length']}"
    if error["type"] == "too_short":
        return f"it has {context['actual_length']} values, and needs {context['min_length']}"
    text = error["msg"].removeprefix("Value error, ")
    for theirs, ours in TYPES.items():
        text = text.replace(theirs, ours)
    return text


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def _and_others(first: Mistake, keys: Sequence[str]) -> str:
    """Name further keys that are wrong, as many as a line has room for; none that holds the first."""
    keys = [key for key in keys if not _holds(key, first.key) and not _holds(first.key, key)]
    if not keys:
        return ""
    rest = f" and {len(keys) - MOST_OTHERS} more" if len(keys) > MOST_OTHERS else ""
    return f" (also wrong: {', '.join(keys[:MOST_OTHERS])}{rest})"


def _holds(section: str, key: str) -> bool:
    """Whether a key is this one, or a part of it."""
    return not section or f"{key}.".startswith(f"{section}.")


def _values_of(annotation: Any) -> int:
    """How many values a list of fixed length has."""
    if get_origin(annotation) is tuple:
        return len(get_args(annotation))
    return max(map(_values_of, get_args(annotation)), default=0)


# ---- the key that was meant --------------------------------------------------------------------------------


def _instead(mistake: Mistake, model: type[BaseModel], data: object) -> str:
    last = str(mistake.errors[0]["loc"][-1])
    if "." in last:
        section, _, key = last.partition(".")
        return f"Write {section}: {{{key}: ...}}."
    others = [each for each in mistake.union if last in each.model_fields]
    if others:
        kinds = sorted(kind for each in others for kind in _kinds_of(each))
        return f"It belongs to kind {' or '.join(kinds)}."
    nearest = _nearest(mistake.key, model, data)
    return f"Did you mean '{nearest}'?" if nearest else "Remove it."


def _nearest(key: str, model: type[BaseModel], data: object) -> str | None:
    """The key that was meant, most likely: alike in its section, of this name elsewhere, or alike there."""
    keys = sorted({each for each in _keys(model, data) if not _holds(key, each) and not _holds(each, key)})
    section, _, leaf = key.rpartition(".")
    here = [each for each in keys if each.rpartition(".")[0] == section]
    alike = difflib.get_close_matches(leaf, [each.rpartition(".")[2] for each in here], n=1)
    if alike:
        return next(each for each in here if each.rpartition(".")[2] == alike[0])
    elsewhere = [each for each in keys if each.rpartition(".")[2] == leaf]
    near = difflib.get_close_matches(key, elsewhere, n=1, cutoff=0.0)
    others = [each for each in keys if each not in here]
    return next(iter(near or difflib.get_close_matches(key, others, n=1, cutoff=ALIKE)), None)


def _keys(annotation: Any, data: object, prefix: str = "") -> Iterator[str]:
    """Every key, dotted, that these settings could have, in sections of the kinds that they are."""
    given = data if isinstance(data, dict) else {}
    models = _models(annotation)
    for model in [each for each in models if given.get("kind") in _kinds_of(each)] or models:
        for name, field in model.model_fields.items():
            yield prefix + name
            yield from _keys(field.annotation, given.get(name), f"{prefix}{name}.")
        if not prefix and "model" in model.model_fields:  # presets have the sizes of models
            yield "preset"


# ---- where it was written ----------------------------------------------------------------------------------


def _origin(mistake: Mistake, where: str, overrides: Sequence[str]) -> str:
    """The last ``--set`` that wrote the key, or a section around it, or a part that the reason names."""
    for each in reversed(overrides):
        if _holds(each.partition("=")[0], mistake.key):
            return f"--set {each}"
    for each in reversed(overrides):
        changed = each.partition("=")[0]
        named = rf"\b{re.escape(changed.rpartition('.')[2])}\b"
        if _holds(mistake.key, changed) and re.search(named, mistake.reason):
            return f"--set {each}"
    return where


def _changed_kind(mistake: Mistake, overrides: Sequence[str]) -> str:
    """``a.kind=b`` after which what the file has in section a, or lacks there, is wrong."""
    key = mistake.key
    changed = [each.partition("=")[0] for each in overrides]
    if any(_holds(name, key) or _holds(key, name) for name in changed):
        return ""
    if mistake.kind == "extra_forbidden" and not any(mistake.leaf in e.model_fields for e in mistake.union):
        return ""
    sections = [each for each in overrides if re.match(r"[\w.]+\.kind=", each)]
    return next((each for each in reversed(sections) if _holds(each.partition(".kind=")[0], key)), "")


def _whole(section: str, kind: str, mistake: Mistake, derived: Callable[[str], bool]) -> str:
    """The section as it has to be written, with the keys that this kind cannot do without."""
    branch = next((each for each in mistake.union if kind in _kinds_of(each)), mistake.section)
    needed = [
        name
        for name, field in branch.model_fields.items()
        if field.is_required() and name != "kind" and not derived(f"{section}.{name}")
    ]
    whole = ", ".join([f"kind: {kind}", *(f"{name}: ..." for name in needed)])
    return f"Give the section as a whole: --set '{section}={{{whole}}}'."
