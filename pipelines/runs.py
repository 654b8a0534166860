"""Run folders: whose settings made this output, what came out, written whole or not at all.

A folder is claimed by the hash of its settings before anything is written, so that output of other settings
never mixes in; its manifest says at the end what was done, with which versions, and how long it took.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from safa.config import Settings, dump_settings, settings_hash
from safa.errors import UserError

MANIFEST = "manifest.json"
PACKAGES = ("ray", "torch", "numpy", "pyarrow", "pillow")


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data.encode() if isinstance(data, str) else data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON that appears whole or not at all."""
    write_whole(path, json.dumps(value, indent=2, default=str) + "\n")


def claim_folder(folder: Path, settings: Settings, ignoring: frozenset[str] = frozenset()) -> None:
    """Make ``folder`` the home of these settings.

    Args:
        ignoring: top-level keys that do not change the output (resources, limits of patience).

    Raises:
        UserError: it holds output of other settings.
    """
    relevant = settings.model_copy(update={key: type(settings).model_fields[key].default for key in ignoring})
    digest = settings_hash(relevant)
    mark = folder / "settings.hash"
    if mark.exists():
        if mark.read_text().strip() != digest:
            raise UserError(
                "holds output of other settings", str(folder), "Choose another folder, or delete this one."
            )
        return
    write_whole(folder / "config.yaml", dump_settings(settings))
    write_whole(mark, digest + "\n")


def write_manifest(folder: Path, settings: Settings, counts: Mapping[str, Any], seconds: float) -> None:
    """Say what was done: settings, versions, counts, wall time."""
    write_json(
        folder / MANIFEST,
        {
            "settings": settings.model_dump(mode="json"),
            "settings_hash": settings_hash(settings),
            "versions": versions(),
            "counts": dict(counts),
            "seconds": round(seconds, 1),
        },
    )


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version(), "safa": metadata.version("safa")}
    return found | {name: metadata.version(name) for name in PACKAGES}
