"""Run folders: the settings that a folder belongs to, and the manifest of what was done in it.

A folder is locked to the hash of its settings before anything else is written, so that output of different
settings never mixes. At the end, the manifest records settings, versions, counts and wall time.
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
LOCK = "settings.hash"
CONFIG = "config.yaml"
DISTRIBUTION = "safa-ray"  # `safa` on the package index is somebody else's
PACKAGES = ("ray", "torch", "numpy", "pyarrow", "pillow")


def lock_settings(folder: Path, settings: Settings, not_hashed: frozenset[str] = frozenset()) -> None:
    """Lock ``folder`` to these settings.

    Args:
        not_hashed: top-level keys that do not change the output (resources, limits).

    Raises:
        UserError: it holds output of other settings.
    """
    digest = settings_hash(settings, ignore=not_hashed)
    lock = folder / LOCK
    if lock.exists():
        if lock.read_text().strip() != digest:
            raise UserError(
                "holds output of other settings", str(folder), "Choose another folder, or delete this one."
            )
        return
    atomic_write(folder / CONFIG, dump_settings(settings))
    atomic_write(lock, digest + "\n")


def write_manifest(folder: Path, settings: Settings, counts: Mapping[str, Any], seconds: float) -> None:
    """Write the manifest: settings, versions, counts, wall time."""
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
    """Versions of the packages that the numbers depend on."""
    own = {"python": platform.python_version(), "safa": _own_version()}
    return own | {name: metadata.version(name) for name in PACKAGES}


def _own_version() -> str:
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:  # run from a clone that nobody installed
        return "not installed"
