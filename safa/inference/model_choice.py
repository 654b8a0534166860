"""Choice of the model: a run's folder, a demo's, the only model below ``runs/``, or the one in the box."""

from __future__ import annotations

from pathlib import Path

from safa.checkpoint.native import MODEL_FILE, ModelInfo, holds_checkpoint, stage_of_model
from safa.errors import UserError
from safa.files import Location, shown

RUNS = Path("runs")
IN_THE_BOX = Path(__file__).parents[1] / "demo_model"  # its README.md says what it can do
DEPTH = 3  # folders below RUNS that are looked into
LISTED = 5  # models that a message names


def find_model(path: Path) -> Path:
    """Return the folder that holds the model: ``path`` itself, or the only run of the full stage in it.

    Raises:
        UserError: there are several.
    """
    if not path.is_dir() or holds_checkpoint(path):
        return path
    found = _models_in(path, 1)
    if len(found) > 1:
        raise UserError(f"holds several models: {_listed(found)}", str(path), "Name one of them.")
    return found[0] if found else path


def default_model(folder: Path = RUNS) -> Path:
    """Return the only trained model below a folder; where there is none, the one that comes with safa.

    Raises:
        UserError: there are several.
    """
    found = _models_in(folder, DEPTH)
    if not found:
        return IN_THE_BOX
    if len(found) > 1:
        fix = "Give checkpoint=PATH."
        raise UserError(f"no model was named, and there are several: {_listed(found)}", f"{folder}/", fix)
    return found[0]


def described(path: Location, info: ModelInfo) -> str:
    """Say which model it is, what comes out, and what can be expected."""
    size = info.config.image_size
    name = "the small one that comes with safa" if path == IN_THE_BOX else f"{shown(path)}, step {info.step}"
    line = f"the model is {name}; it makes {size} x {size} px"
    if info.trained_on == "synthetic":
        line += (
            "; it learned from synthetic heads only: expect of a real photo a head that turns and a mouth "
            "that moves a little"
        )
    return line


def _models_in(folder: Path, depth: int) -> list[Path]:
    """Run folders of the full stage, at most ``depth`` folders down, the newest first."""
    found: list[tuple[float, Path]] = []
    for level in range(1, depth + 1):
        for file in folder.glob("*/" * level + f"model/{MODEL_FILE}"):
            if stage_of_model(file) == "full":
                found.append((file.stat().st_mtime, file.parent.parent))
    return [path for _, path in sorted(found, key=lambda item: (-item[0], item[1]))]


def _listed(found: list[Path]) -> str:
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    return ", ".join(map(str, found[:LISTED])) + more
