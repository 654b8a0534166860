"""The README is true: its files exist, its commands are there, its links lead somewhere."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from safa.cli import build_parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_file_list_is_that_of_today() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so there is no list of files to compare with")
    with_list = runpy.run_path(str(ROOT / "docs" / "file_list.py"))["with_list"]
    assert with_list(README) == README, "run `make format`"


def test_its_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)) | set(
        re.findall(r"`make ([a-z-]+)`", README)
    )
    assert {"demo", "test"} <= named <= targets


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_pipelines_and_configs_named_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for module in re.findall(r"python -m pipelines\.(\w+)", text):
        assert (ROOT / "pipelines" / f"{module}.py").is_file(), module
    for config in re.findall(r"configs/[\w/]+\.yaml", text):
        assert (ROOT / config).is_file(), config


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_its_safa_commands_parse() -> None:
    """The three commands from released weights to a video, with their very flags."""
    commands = re.findall(r"^\.venv/bin/safa (.+)$", README, re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        build_parser().parse_args(command.split())  # exits on a flag that is not there
