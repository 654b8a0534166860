"""README and docs are true: files exist, commands are there, links lead somewhere, arrows hold."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from safa.cli import build_parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
DOCS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
LONGEST_README = 140  # lines
LONGEST_TREE = 25


def _packages(folder: Path) -> set[str]:
    """Names of the folders of code right below one."""
    return {path.parent.name for path in folder.glob("*/*.py")}


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= LONGEST_README


def test_its_tree_is_that_of_today() -> None:
    """Every folder of the tree exists, every package of ``safa`` is in it."""
    (tree,) = re.findall(r"```\n(safa/ .*?)```", README, re.DOTALL)
    lines = tree.splitlines()
    assert len(lines) <= LONGEST_TREE
    top, rooms = "", set()
    for line in lines:
        indent, name, words = re.fullmatch(r"( *)(\w+)/ +(\S.*)", line).groups()  # type: ignore[union-attr]
        top = top if indent else name
        folder = ROOT / top / name if indent else ROOT / name
        assert folder.is_dir(), line
        for below in re.findall(r"\b(\w+)/", words):
            assert (folder / below).is_dir() or (ROOT / below).is_dir(), line
        if indent:
            rooms.add(name)
    assert rooms == _packages(ROOT / "safa")


def test_it_names_eight_files_to_read_first() -> None:
    paragraph = README[README.index("Read these eight files first") :].split("docs/architecture.md")[0]
    files = re.findall(r"\]\(([^)]+\.py)\)", paragraph)
    assert len(set(files)) == 8
    assert all((ROOT / file).is_file() for file in files)


def test_its_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE))
    for path in DOCS:
        text = without_renames(path.read_text(encoding="utf-8"))
        named = re.findall(r"^make ([a-z-]+)", text, re.MULTILINE) + re.findall(r"`make ([a-z-]+)[ `]", text)
        assert set(named) - {"real"} <= targets, path.name


def without_renames(text: str) -> str:
    """A changelog may name what is gone, in tables headed ``before | now``."""
    return re.sub(r"^\| before \| now \|\n(?:\|.*\n)+", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_pipelines_and_configs_named_exist(path: Path) -> None:
    text = without_renames(path.read_text(encoding="utf-8"))
    for module in re.findall(r"python -m pipelines\.(\w+)", text):
        assert (ROOT / "pipelines" / f"{module}.py").is_file(), module
    for config in re.findall(r"configs/[\w/]+\.yaml", text):
        assert (ROOT / config).is_file(), config


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_files_of_code_named_exist(path: Path) -> None:
    text = without_renames(path.read_text(encoding="utf-8"))
    for name in re.findall(r"`((?:safa|pipelines|benchmarks|tests|docs)/[\w/.]+)", text):
        assert (ROOT / name.rstrip(".")).exists(), name


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), target


@pytest.mark.parametrize(
    "path",
    [*DOCS, ROOT / "Makefile", ROOT / "cluster.yaml", *sorted((ROOT / "configs").rglob("*.yaml"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_nothing_needs_a_folder_beside_the_repository(path: Path) -> None:
    assert "../shared" not in path.read_text(encoding="utf-8")


def test_its_safa_commands_parse() -> None:
    """The commands from released weights to a video, with their very flags."""
    commands = re.findall(r"^\.venv/bin/safa (.+)$", README, re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        build_parser().parse_args(command.split())  # exits on a flag that is not there


# ---- docs/architecture.md ----------------------------------------------------------------------------------


def test_the_map_has_every_package() -> None:
    mapped = re.findall(r"^\| `(?:safa/)?(\w+)` \|", ARCHITECTURE, re.MULTILINE)
    assert set(mapped) == {*_packages(ROOT / "safa"), "pipelines"}


def _levels() -> dict[str, int]:
    """Rooms of the drawing to their lines, from 0 at the top."""
    (drawing,) = re.findall(r"```\n(errors .*?)```", ARCHITECTURE, re.DOTALL)
    return {room: number for number, line in enumerate(drawing.splitlines()) for room in line.split()}


def _imports(tree: ast.AST) -> Iterator[str]:
    """Modules of ``safa`` and ``pipelines`` imported anywhere, but for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            yield from _imports(node)


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[0] if parts[0] != "safa" else parts[1]


def test_rooms_import_only_from_lines_above_their_own() -> None:
    levels, wrong = _levels(), []
    for path in [*(ROOT / "safa").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")]:
        if path == ROOT / "safa" / "__init__.py":  # the front door: `safa.load` opens what stands below
            continue
        own = _room(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for module in _imports(ast.parse(path.read_text(encoding="utf-8"))):
            if not module.startswith(("safa.", "pipelines.")) or _room(module) == own:
                continue
            drawn = own in levels and _room(module) in levels
            if drawn and levels[_room(module)] >= levels[own]:
                wrong.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_the_drawing_has_every_package() -> None:
    assert set(_levels()) >= {*_packages(ROOT / "safa"), "pipelines"}


def test_the_errors_drawn_exist() -> None:
    (drawing,) = re.findall(r"```\n(Exception\n.*?)```", ARCHITECTURE, re.DOTALL)
    names = set(re.findall(r"(?:├──|└──) (\w+)", drawing))
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "safa").rglob("*.py"))
    defined = set(
        re.findall(r"^class (\w+)\((?:Exception|\w*Error|KeyboardInterrupt)\):", code, re.MULTILINE)
    )
    assert names == defined
