"""The two halves and their one direction: pipelines import safa, safa never imports Ray or pipelines."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAFA_FILES = sorted((ROOT / "safa").rglob("*.py"))
ALL_FILES = SAFA_FILES + sorted((ROOT / "pipelines").rglob("*.py"))


def _imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SAFA_FILES, ids=_name)
def test_safa_never_imports_ray_or_pipelines(path: Path) -> None:
    assert not _imported(path) & {"ray", "pipelines"}


def test_no_file_is_named_for_having_no_subject() -> None:
    assert not [path for path in ALL_FILES if path.name == "utils.py"]


def test_importing_everything_does_not_start_or_load_heavy_things() -> None:
    """Every module imports cleanly in one fresh process; none starts Ray or touches the network."""
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in ALL_FILES
        if path.name != "__main__.py"
    ]
    code = (
        "import importlib, socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('network at import time')\n"
        "socket.socket.connect = refuse\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "ray = sys.modules.get('ray')\n"
        "assert ray is None or not ray.is_initialized()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_workers_that_crop_and_write_load_no_torch() -> None:
    """There are many of them, and it would take two of three seconds of their start, and 250 MB of each."""
    code = "import sys, pipelines.clip_stages\nprint(sorted({'torch', 'scipy', 'pandas'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_an_animator_and_a_frame_import_nothing_that_they_do_not_need() -> None:
    """torch.onnx is for exports, sympy for shapes that are symbols: they take 0.15 and 1.3 s."""
    code = (
        "import sys, numpy, safa\n"
        "animator = safa.load(device='cpu')\n"
        "photo = numpy.zeros((64, 64, 3), numpy.uint8)\n"
        "next(iter(animator.animate(photo, [photo], crop=False)))\n"
        "print(sorted({'ray', 'pandas', 'sympy', 'torch.onnx'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
