"""Run folders: the settings that a folder belongs to, and the manifest of what was done in it.

Output of different settings never mixes: a folder that has output belongs to the settings that
``settings.hash`` stands for. At the end, the manifest records settings, versions, counts and wall time.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Set
from importlib import metadata
from typing import Any

import yaml

from pipelines.machines import machines_seen
from safa.config import Settings, dump_settings, settings_hash
from safa.errors import UserError
from safa.files import (
    Location,
    atomic_write,
    entries,
    exists,
    join,
    read_bytes,
    reporting_errors,
    shown,
    write_json,
)

MANIFEST, VERSIONS = "manifest.json", "versions.json"
CONFIG, LOCK = "config.yaml", "settings.hash"
# What a start writes before there is any output; Ray Train keeps its own notes in `ray`.
BOOKKEEPING = frozenset({CONFIG, LOCK, VERSIONS, "ray"})
DISTRIBUTION = "safa-ray"  # `safa` on the package index is somebody else's
PACKAGES = ("ray", "torch", "numpy", "pyarrow", "pillow")
SHOWN, LENGTH = 3, 60  # differing settings that a refusal names, and the characters of a value that it shows


# ---- settings ----------------------------------------------------------------------------------------------


def lock_settings(folder: Location, settings: Settings, not_hashed: Set[str] = frozenset()) -> None:
    """Check the settings against the folder, then record them, where nothing is to be checked between.

    Raises:
        UserError: as ``check_settings``.
    """
    check_settings(folder, settings, not_hashed)
    record_settings(folder, settings, not_hashed)


def check_settings(folder: Location, settings: Settings, not_hashed: Set[str] = frozenset()) -> None:
    """Refuse a folder with output of other settings. Nothing is written.

    Args:
        not_hashed: keys that do not change the output (resources, limits), dotted where they are nested.

    Raises:
        UserError: it holds output of other settings; names those that differ.
    """
    if same_settings(folder, settings, not_hashed) or not has_output(folder):
        return
    differing = differences(_stored(folder), settings.model_dump(mode="json"), not_hashed)
    raise UserError(
        f"holds output of other settings{in_words(differing)}",
        shown(folder),
        "Run with the settings that it has, choose another folder, or delete this one.",
    )


def same_settings(folder: Location, settings: Settings, not_hashed: Set[str] = frozenset()) -> bool:
    """Whether the folder belongs to these settings, or to none yet."""
    lines = _read(folder, LOCK).splitlines()
    return not lines or lines[0].strip() == settings_hash(settings, ignore=not_hashed)


def record_settings(
    folder: Location,
    settings: Settings,
    not_hashed: Set[str] = frozenset(),
    config: Settings | None = None,
) -> None:
    """Record whose folder this is: ``config.yaml`` to run the same again, ``settings.hash`` to compare.

    Args:
        config: what the user gave, if ``settings`` has more top-level keys (hashes of the inputs); they are
            kept beside the hash.
    """
    digest = settings_hash(settings, ignore=not_hashed)
    lines = _read(folder, LOCK).splitlines()
    if lines and lines[0].strip() == digest:
        return
    config = settings if config is None else config
    plain, own = settings.model_dump(mode="json"), type(config).model_fields
    more = {key: value for key, value in plain.items() if key not in own}
    atomic_write(join(folder, CONFIG), dump_settings(config))
    atomic_write(join(folder, LOCK), digest + "\n" + (yaml.safe_dump(more) if more else ""))


def has_output(folder: Location) -> bool:
    """Whether anything lies in the folder but what a start that failed at once leaves."""
    if not exists(folder):
        return False
    with reporting_errors(folder):
        return any(
            not entry.is_folder or has_output(entry.location)
            for entry in entries(folder)
            if not entry.name.startswith(".") and entry.name not in BOOKKEEPING
        )


def differences(
    stored: Mapping[str, Any], given: Mapping[str, Any], ignore: Set[str] = frozenset()
) -> list[str]:
    """Name the settings that differ: ``key: stored value -> given value``, with dotted keys, in order.

    Args:
        ignore: keys that may differ, with all that lies below them.
    """
    before, after = _flat(stored), _flat(given)
    keys = [*after, *(key for key in before if key not in after)]
    return [
        f"{key}: {_value(before, key)} -> {_value(after, key)}"
        for key in keys
        if before.get(key, _ABSENT) != after.get(key, _ABSENT)
        and not any(key == name or key.startswith(f"{name}.") for name in ignore)
    ]


def in_words(differing: list[str]) -> str:
    """The first few differences in brackets; empty if none is known."""
    more = f", and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
    return f" ({', '.join(differing[:SHOWN])}{more})" if differing else ""


_ABSENT = object()


def _flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _value(flat: Mapping[str, Any], key: str) -> str:
    if key not in flat:
        return "absent"
    text = str(flat[key])
    return text if len(text) <= LENGTH else text[: LENGTH - 3] + "..."


def _stored(folder: Location) -> dict[str, Any]:
    """The settings that the folder has; what cannot be read is left out."""
    stored: dict[str, Any] = {}
    for text in (_read(folder, CONFIG), _read(folder, LOCK).partition("\n")[2]):
        try:
            plain = yaml.safe_load(text)
        except yaml.YAMLError:
            continue
        stored |= plain if isinstance(plain, dict) else {}
    return stored


def _read(folder: Location, name: str) -> str:
    path = join(folder, name)
    if not exists(path):
        return ""
    with reporting_errors(path):
        return read_bytes(path).decode("utf-8", "replace")


# ---- the outcome -------------------------------------------------------------------------------------------


def check_counts(counts: Mapping[str, int], folder: Location, *, stopped: bool = False) -> None:
    """Refuse an outcome that cannot be right. Every number must have been counted by itself.

    Args:
        counts: ``in``, then the number of inputs in each state: ``ok``, ``quarantined``, ``pending``.
        stopped: whether the run stopped on purpose before all inputs had been tried.

    Raises:
        UserError: inputs that were neither made nor refused, or a total that does not add up.
    """
    states = {name: count for name, count in counts.items() if name != "in"}
    total, pending = counts["in"], states.get("pending", 0)
    if pending and not stopped:
        raise UserError(
            f"{pending} of {total} clips were neither made nor refused: their output is not here",
            shown(folder),
            "Check that all machines share this folder, and run the same command again.",
        )
    if sum(states.values()) != total:
        listed = ", ".join(f"{count} {name}" for name, count in states.items())
        raise UserError(
            f"the counts do not add up: {total} in, but {listed}",
            shown(folder),
            "Check that nothing else writes into this folder, and run the same command again.",
        )


def refuse_nothing(
    counts: Mapping[str, int], folder: Location, reasons: Iterable[tuple[str, str]] = ()
) -> None:
    """Refuse an outcome without any output.

    Args:
        reasons: code and detail of each input that was refused; the most frequent one is named.

    Raises:
        UserError: there were inputs, and not one of them is ``ok``.
    """
    if counts["in"] and not counts["ok"]:
        raise UserError(
            f"not one of {counts['in']} clips could be used{_most_frequent(reasons)}",
            shown(folder),
            "Read the reasons in its quarantine, and correct the settings or the inputs.",
        )


def _most_frequent(reasons: Iterable[tuple[str, str]]) -> str:
    """In brackets: how often the most frequent code is there, and the first detail of it; may be empty."""
    details: dict[str, list[str]] = {}
    for code, detail in reasons:
        details.setdefault(code, []).append(detail)
    if not details:
        return ""
    code, found = max(details.items(), key=lambda item: len(item[1]))
    return f" ({len(found)} {code}, such as: {found[0]})"


def write_manifest(folder: Location, settings: Settings, counts: Mapping[str, Any], seconds: float) -> None:
    """Write the manifest: settings, versions, counts, wall time, and the machines that took part."""
    write_json(
        join(folder, MANIFEST),
        {
            "settings": settings.model_dump(mode="json"),
            "settings_hash": settings_hash(settings),
            "versions": versions(),
            "counts": dict(counts),
            "seconds": round(seconds, 1),
            "nodes": machines_seen(),
        },
    )


def versions() -> dict[str, str]:
    """Versions of the packages that the numbers depend on."""
    own = {"python": platform.python_version(), "safa": _own_version()}
    return own | {name: metadata.version(name) for name in PACKAGES}


def _own_version() -> str:
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:  # run from a clone that nobody installed
        return "not installed"
