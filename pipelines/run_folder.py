"""Run folders: whose settings made this output, what came out, written atomically.

A folder is claimed by the hash of its settings before anything is written, so that output of other settings
never mixes in; its manifest says at the end what was done, with which versions, and how long it took.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from safa.config import Settings, dump_settings, settings_hash
from safa.errors import UserError
from safa.files import atomic_write, write_json

MANIFEST = "manifest.json"
DISTRIBUTION = "safa-ray"  # `safa` on the package index is somebody else's
PACKAGES = ("ray", "torch", "numpy", "pyarrow", "pillow")


def lock_settings(folder: Path, settings: Settings, not_hashed: frozenset[str] = frozenset()) -> None:
    """Make ``folder`` the home of these settings.

    Args:
        ignoring: top-level keys that do not change the output (resources, limits of patience).

    Raises:
        UserError: it holds output of other settings.
    """
    digest = settings_hash(settings, ignore=not_hashed)
    mark = folder / "settings.hash"
    if mark.exists():
        if mark.read_text().strip() != digest:
            raise UserError(
                "holds output of other settings", str(folder), "Choose another folder, or delete this one."
            )
        return
    atomic_write(folder / "config.yaml", dump_settings(settings))
    atomic_write(mark, digest + "\n")


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
    found = {"python": platform.python_version(), "safa": _own_version()}
    return found | {name: metadata.version(name) for name in PACKAGES}


def _own_version() -> str:
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:  # run from a clone that nobody installed
        return "not installed"
