"""The import graph has one direction: no cycle of modules, none of packages, and no Ray below ``pipelines``.

Imports inside functions count, since a cycle that is hidden there is still a cycle. Imports for type checkers
alone (``if TYPE_CHECKING:``) don't.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("safa", "pipelines")

Graph = dict[str, set[str]]  # module to the modules that it imports


def module_name(path: Path, root: Path) -> str:
    """``safa/data/__init__.py`` to ``safa.data``."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def source_files(root: Path) -> dict[str, Path]:
    """Module names to their files."""
    files = [path for package in PACKAGES for path in (root / package).rglob("*.py")]
    return {module_name(path, root): path for path in files}


def _for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(tree: ast.AST) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each imported module with the names taken from it, wherever the import stands."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or "", tuple(alias.name for alias in node.names)
        elif isinstance(node, ast.If) and _for_type_checkers(node):
            yield from imports_of(ast.Module(node.orelse, []))
        else:
            yield from imports_of(node)


def import_graph(root: Path) -> Graph:
    """Modules of the two packages to those that they import.

    ``from a.b import c`` means the module ``a.b.c`` where there is one, else ``a.b``. That Python runs
    ``a/__init__.py`` on the way to ``a.b`` is no import of ``a``: an ``__init__`` that gathers names from its
    own modules would be a cycle by definition.
    """
    files = source_files(root)
    graph: Graph = {}
    for name, path in files.items():
        graph[name] = set()
        for module, names in imports_of(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            parts = [f"{module}.{part}" for part in names]
            targets = [part if part in files else module for part in parts] or [module]
            graph[name] |= {target for target in targets if target in files and target != name}
    return graph


def package_of(module: str) -> str:
    """``safa.data.video`` to ``safa.data``; a module at the top is a package of its own."""
    return ".".join(module.split(".")[:2])


def graph_of_packages(graph: Mapping[str, Iterable[str]]) -> Graph:
    """The graph with the modules of each package taken together. ``safa`` itself stands above all of them."""
    packages: Graph = {}
    for module, targets in graph.items():
        own = packages.setdefault(package_of(module), set())
        own |= {package_of(target) for target in targets} - {package_of(module)}
    return packages


def find_cycle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """One cycle from the first of its names round to itself; empty if there is none."""
    done: set[str] = set()
    for start in sorted(graph):
        waiting = [(start, iter(sorted(graph[start])))] if start not in done else []
        path = [start] if waiting else []
        while waiting:
            module, targets = waiting[-1]
            target = next(targets, None)
            if target is None:
                done.add(module)
                waiting.pop()
                path.pop()
            elif target in path:
                cycle = path[path.index(target) :]
                first = cycle.index(min(cycle))
                return [*cycle[first:], *cycle[: first + 1]]
            elif target not in done:
                path.append(target)
                waiting.append((target, iter(sorted(graph.get(target, ())))))
    return []


def longest_chain(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """The longest way along imports through a graph without cycles."""
    best: dict[str, list[str]] = {}

    def chain(module: str) -> list[str]:
        if module not in best:
            below = [chain(target) for target in sorted(graph.get(module, ()))]
            best[module] = [module, *max(below, key=len, default=[])]
        return best[module]

    return max((chain(module) for module in sorted(graph)), key=len)


@pytest.fixture(scope="module")
def graph() -> Graph:
    found = import_graph(ROOT)
    assert len(found) > 100
    return found


def test_no_cycle_between_modules(graph: Graph) -> None:
    cycle = find_cycle(graph)
    assert not cycle, " -> ".join(cycle)


def test_no_cycle_between_packages(graph: Graph) -> None:
    cycle = find_cycle(graph_of_packages(graph))
    assert not cycle, " -> ".join(cycle) + "\n" + "\n".join(_edges(graph, cycle))


def _edges(graph: Graph, packages: list[str]) -> Iterator[str]:
    """The modules behind each step of a cycle of packages."""
    for one, other in pairwise(packages):
        for module in sorted(graph):
            for target in sorted(graph[module]):
                if (package_of(module), package_of(target)) == (one, other):
                    yield f"{module} imports {target}"


def test_safa_imports_neither_pipelines_nor_ray(graph: Graph) -> None:
    wrong = [
        f"{name} imports {module}"
        for name, path in source_files(ROOT).items()
        if name.split(".")[0] == "safa"
        for module, _ in imports_of(ast.parse(path.read_text(encoding="utf-8"), str(path)))
        if module.split(".")[0] in ("ray", "pipelines")
    ]
    assert not wrong, "\n".join(wrong)


# ---- the test itself sees ----------------------------------------------------------------------------------


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A copy of the shape of the code: three packages in a row, without a cycle."""
    texts = {
        "safa/__init__.py": "",
        "safa/low/__init__.py": "",
        "safa/low/one.py": "import math\n",
        "safa/middle/__init__.py": "from safa.middle.two import TWO\n",
        "safa/middle/two.py": "from safa.low import one\nTWO = 2\n",
        "pipelines/run.py": "import safa.middle\nimport ray\n",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_what_has_no_cycle_passes(planted: Path) -> None:
    graph = import_graph(planted)
    assert graph["safa.middle.two"] == {"safa.low.one"}
    assert graph["pipelines.run"] == {"safa.middle"}
    assert find_cycle(graph) == find_cycle(graph_of_packages(graph)) == []
    assert longest_chain(graph) == ["pipelines.run", "safa.middle", "safa.middle.two", "safa.low.one"]


@pytest.mark.parametrize(
    "text",
    [
        "from safa.middle.two import TWO\n",
        "def late():\n    if True:\n        from safa.middle import two\n        return two\n",
        "try:\n    import safa.middle.two\nexcept ImportError:\n    pass\n",
    ],
)
def test_a_planted_cycle_is_found(planted: Path, text: str) -> None:
    (planted / "safa/low/one.py").write_text(text)
    assert find_cycle(import_graph(planted)) == ["safa.low.one", "safa.middle.two", "safa.low.one"]


def test_a_planted_cycle_of_packages_is_found(planted: Path) -> None:
    (planted / "safa/low/three.py").write_text("from safa.middle.two import TWO\n")
    graph = import_graph(planted)
    assert find_cycle(graph) == []
    assert find_cycle(graph_of_packages(graph)) == ["safa.low", "safa.middle", "safa.low"]


def test_imports_for_type_checkers_do_not_count(planted: Path) -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from safa.middle.two import TWO\n"
    (planted / "safa/low/one.py").write_text(text)
    assert find_cycle(import_graph(planted)) == []
