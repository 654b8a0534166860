"""Where files of others lie (weights that may not be part of this program), in the order of the search."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import platformdirs

from safa.errors import UserError
from safa.files import Location, is_file, is_folder, is_uri, join, location, shown

VARIABLE = "SAFA_ASSETS"


def user_folder() -> Path:
    """The folder of this user that is searched last but one: ``~/.local/share/safa/assets`` on Linux."""
    return Path(platformdirs.user_data_dir("safa", appauthor=False)) / "assets"


def torch_hub_folder() -> Path:
    """Where torch.hub keeps the weights that programs of this user have downloaded."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = os.environ.get("TORCH_HOME") or cache / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def asset_folders(given: Location | None = None) -> tuple[Location, ...]:
    """Return the folders that are searched.

    Args:
        given: the folder that a person has named; then it is the only one.

    Returns:
        Else ``assets/`` here, the clone's, the folder in the environment variable ``SAFA_ASSETS``, the user's
        data folder, and torch.hub's cache.

    Raises:
        UserError: the folder that was named is not there.
    """
    if given is not None:
        if not is_uri(given) and not is_folder(given):
            raise UserError(
                "no such folder", shown(given), "Give the folder that holds a detector's weights."
            )
        return (given,)
    named = os.environ.get(VARIABLE)
    folders: list[Location] = [Path("assets"), Path(__file__).parents[1] / "assets"]
    folders += [location(named)] if named else []
    folders += [user_folder(), torch_hub_folder()]
    here = Path.cwd()
    kept: dict[object, Location] = {}
    for folder in folders:
        kept.setdefault(here / folder if isinstance(folder, Path) else folder, folder)
    return tuple(kept.values())


def find_asset(name: str, folders: Sequence[Location]) -> Location | None:
    """Return the first file of this name in the folders; None if there is none."""
    found = (join(folder, name) for folder in folders)
    return next((path for path in found if is_file(path)), None)
