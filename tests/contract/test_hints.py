"""Hints on installing something name what works from a clone, and never what strangers own.

``safa`` on the package index is somebody else's program: who follows ``pip install safa`` runs their code.
"""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = frozenset(PROJECT["optional-dependencies"])
PINNED = frozenset(
    line.split("==")[0].lower().replace("_", "-")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if "==" in line
)
CODE = sorted(
    path for folder in ("safa", "pipelines", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")
)
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("*.yaml"),
        ROOT / "Makefile",
        ROOT / "constraints.txt",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "configs").rglob("*.yaml"),
        *(ROOT / "safa").rglob("*.html"),
    ]
)
# What follows on the line, up to a backtick, bracket or comma; a quoted word may stand on the next line.
HINT = re.compile(r"pip3?\s+install((?:(?:[ \t]+|\s+(?=['\"]))(?:'[^'\n]*'|\"[^\"\n]*\"|[^\s`();,|&'\"]+))*)")
WITH_VALUE = frozenset({"-c", "--constraint", "-r", "--requirement", "-i", "--index-url"})
REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._/~-]+)(?:\[(?P<extras>[^\]]*)\])?(?:[<>=!~].*)?")


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of everything in a file that a person may read: string literals of code, all of a page.

    The parts of an f-string, and of strings that stand side by side, are one text.
    """
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield 1, source
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values]
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for number, line in enumerate(source.splitlines(), start=1):
        if line.lstrip().startswith("#"):
            yield number, line


def hints(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, requirements) of every ``pip install`` in a file; flags and their values are left out."""
    for first, text in texts(path):
        for hint in HINT.finditer(text):
            words = iter(shlex.split(hint.group(1)))
            line = first + text.count("\n", 0, hint.start())
            wanted = []
            for word in words:
                if word in WITH_VALUE:
                    next(words, None)
                elif not word.startswith("-"):
                    wanted.append(word.rstrip(".:") if word != "." else word)
            yield line, wanted


def fault(requirement: str) -> str:
    """What is wrong with a requirement; empty if it can be installed from a clone."""
    match = REQUIREMENT.fullmatch(requirement)
    if match is None:
        return "cannot be read"
    extras = {extra.strip() for extra in (match["extras"] or "").split(",")} - {""}
    if unknown := extras - EXTRAS:
        return f"pyproject.toml defines no extra {', '.join(sorted(unknown))}"
    name = match["name"]
    if name == "." or "/" in name:  # a clone
        return ""
    if name.lower() in ("safa", PROJECT["name"]):
        return "is not ours on the package index; say `make install`, or pip install -e '.[EXTRA]'"
    if name.lower().replace("_", "-") not in PINNED:
        return "is not pinned in constraints.txt"
    return ""


@pytest.mark.parametrize("path", [*CODE, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_hints_name_what_works_from_a_clone(path: Path) -> None:
    faults = [
        f"{path.relative_to(ROOT)}:{line}: {requirement!r} {problem}"
        for line, requirements in hints(path)
        for requirement in requirements
        if (problem := fault(requirement))
    ]
    assert not faults, "\n".join(faults)


def test_there_are_hints_in_code_and_docs() -> None:
    """If the reading of files fell silent, the test above would pass."""
    assert sum(1 for path in CODE for _ in hints(path)) >= 6
    assert sum(1 for path in PAGES for _ in hints(path)) >= 4


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("pip install 'safa[faces]'", 1),
        ("(``pip install safa``)", 1),
        ("pip install safa-ray", 1),
        ("pip install -e '.[faces,bogus]'", 1),
        ("Run `make install`, or .venv/bin/python -m pip install -e '.[app,faces]'.", 0),
        ("pip install -c constraints.txt -e .", 0),
        ("pip install strangers-package", 1),
        ("`python -m pip install\n'safa[app]'`", 1),
    ],
)
def test_what_counts_as_a_fault(text: str, faults: int, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    found = [requirement for _, requirements in hints(page) for requirement in requirements]
    assert found
    assert sum(bool(fault(requirement)) for requirement in found) == faults


def test_the_distribution_is_not_named_like_strangers() -> None:
    assert PROJECT["name"] == "safa-ray"
    assert PROJECT["scripts"] == {"safa": "safa.cli:main"}
