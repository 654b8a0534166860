"""docs/cli.md is the command line of today, and docs/python.md runs."""

from __future__ import annotations

import ast
import inspect
import re
import runpy
from pathlib import Path

from safa import load
from safa.cli import build_parser
from safa.commands.flags import UPSTREAM, UPSTREAM_POSITIONALS, translate_upstream_flags
from safa.inference.face_animator import FaceAnimator
from safa.inference.mesh import Head
from safa.inference.video_output import RenderedVideo

DOCS = Path(__file__).parents[3] / "docs"
CLI, PYTHON = ((DOCS / name).read_text(encoding="utf-8") for name in ("cli.md", "python.md"))


def test_the_flags_are_those_of_today() -> None:
    with_flags = runpy.run_path(str(DOCS / "cli_flags.py"))["with_flags"]
    assert with_flags(CLI) == CLI, "run `python docs/cli_flags.py`"


def test_the_command_lines_parse() -> None:
    commands = re.findall(r"^safa (.+)$", CLI, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        build_parser().parse_args(translate_upstream_flags(command.split()))


def test_every_flag_of_upstream_is_documented() -> None:
    names = [*UPSTREAM, *(name for names in UPSTREAM_POSITIONALS for name in names)]
    assert all(f"`{name}`" in CLI for name in names if name != "--use_detection")


def test_the_python_page_names_what_is_there() -> None:
    for code in re.findall(r"```python\n(.*?)```", PYTHON, re.DOTALL):
        ast.parse(code)
    options = re.findall(r"`(\w+)=", PYTHON[PYTHON.index("## Options") : PYTHON.index("## Heads")])
    assert set(options) == set(inspect.signature(FaceAnimator.animate).parameters) - {
        "self",
        "source",
        "driving",
    }
    for name in re.findall(r"^\| `(\w+)\(", PYTHON, re.MULTILINE):
        assert callable(getattr(FaceAnimator, name))
    for name in re.findall(r"`video\.(\w+)", PYTHON):
        assert name in RenderedVideo.__dataclass_fields__ or hasattr(RenderedVideo, name)
    for name in re.findall(r"head\.(\w+)", PYTHON):
        assert hasattr(Head, name)
    defaults = {name: p.default for name, p in inspect.signature(load).parameters.items()}
    for name, value in re.findall(r'(\w+)="?(\w+)"?[,)]', PYTHON[PYTHON.index("`safa.load(") :][:200]):
        assert str(defaults[name]) == value
