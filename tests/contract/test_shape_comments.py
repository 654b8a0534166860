"""Shapes stand in comments: every line of the model that changes a shape says so, and no name carries one."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

SAFA = Path(__file__).parents[2] / "safa"
READ = sorted(
    [
        *(SAFA / "models").rglob("*.py"),
        *(SAFA / "head").rglob("*.py"),
        *(SAFA / "geometry").glob("*.py"),
        SAFA / "losses.py",
        SAFA / "training/steps.py",
        SAFA / "data/sampler.py",
    ]
)
RESHAPING = frozenset(
    (
        *("reshape", "view", "view_as", "flatten", "unflatten", "permute", "transpose", "movedim", "T", "mT"),
        *("cat", "concat", "concatenate", "stack", "chunk", "split", "unbind"),
        *("expand", "expand_as", "repeat", "repeat_interleave", "unsqueeze", "squeeze", "fold", "unfold"),
    )
)
SHAPE = re.compile(r"\((?:\.\.\.|[^()]*,[^()]*)?\)")  # "(B, K, 2)", "(P,)", "(...)" or a scalar's "()"
# "points_BK2", "grid_hw2": capitals or sizes behind a lower-case name, unlike CONSTANTS and "J_regressor".
SUFFIX = re.compile(r"^_*[a-z][a-z0-9_]*_(?:[BCDFHKLMNPQSTVW][BCDFHKLMNPQSTVWhw0-9]{0,7}|hw[0-9]?)$")


def _reshapes(node: ast.AST) -> bool:
    """Whether a node calls one of ``RESHAPING``, transposes by ``.T`` or indexes with None."""
    if isinstance(node, ast.Attribute):
        return node.attr in ("T", "mT")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        text_or_path = isinstance(node.func.value, ast.Constant | ast.JoinedStr)
        return node.func.attr in RESHAPING and not text_or_path and not _is_text_split(node)
    if isinstance(node, ast.Subscript):
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        return any(isinstance(part, ast.Constant) and part.value is None for part in parts)
    return False


def _is_text_split(call: ast.Call) -> bool:
    """``"a/b".split("/")`` and ``line.split()``: a tensor's split always has sizes."""
    assert isinstance(call.func, ast.Attribute)
    return call.func.attr == "split" and (
        not call.args or (isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str))
    )


def _own_nodes(statement: ast.stmt) -> list[ast.AST]:
    """Nodes of a statement without those of the statements inside it."""
    nodes: list[ast.AST] = []
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        nodes.append(node)
        waiting += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)]
    return nodes


def unexplained(source: str) -> list[int]:
    """Lines that begin a statement which changes a shape and has no shape comment on it or right above it."""
    comments = {
        token.start[0]: token.string
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    lines = []
    for statement in ast.walk(ast.parse(source)):
        if not isinstance(statement, ast.stmt):
            continue
        nodes = _own_nodes(statement)
        if not any(_reshapes(node) for node in nodes):
            continue
        last = max(
            getattr(node, "end_lineno", None) or statement.lineno for node in nodes if node is not statement
        )
        near = (comments.get(line, "") for line in range(statement.lineno - 1, last + 1))
        if not any(SHAPE.search(comment) for comment in near):
            lines.append(statement.lineno)
    return sorted(lines)


def suffixed(source: str) -> list[str]:
    """Variables, parameters, keywords and attributes of a module whose names end in a shape."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        names.update(
            value
            for value in (getattr(node, field, None) for field in ("id", "arg", "attr", "name"))
            if isinstance(value, str)
        )
    return sorted(name for name in names if SUFFIX.match(name))


@pytest.mark.parametrize("path", READ, ids=lambda path: str(path.relative_to(SAFA)))
def test_every_line_that_changes_a_shape_says_the_shape(path: Path) -> None:
    assert [f"{path}:{line}" for line in unexplained(path.read_text())] == []


def test_no_name_carries_a_shape() -> None:
    found = {str(path): suffixed(path.read_text()) for path in sorted(SAFA.rglob("*.py"))}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "line",
    [
        "y = x.flatten(2)",
        "y = torch.cat([a, b])  # join (see there)",
        "y = x[:, None]",
        "y = x.T",
        "f(x.permute(1, 0))",
    ],
)
def test_a_line_without_its_shape_is_seen(line: str) -> None:
    assert unexplained(line) == [1]


@pytest.mark.parametrize(
    "line",
    [
        "y = x.flatten(2)  # (B, C, H, W) -> (B, C, H*W)",
        "# (B, C, H, W) -> (B, C, H*W)\ny = x.flatten(2)",
        "y = torch.cat(  # (B, 6)\n    [a, b]\n)",
        "parts = text.split()",
    ],
)
def test_a_shape_counts_beside_or_above_its_line(line: str) -> None:
    assert unexplained(line) == []


def test_names_with_and_without_a_shape_are_distinguished() -> None:
    shapes = "points_BK2 = grid_hw2 = f(map_HW=1)\nerror_B = 1\nimage_BN3HW = 2"
    assert suffixed(shapes) == ["error_B", "grid_hw2", "image_BN3HW", "map_HW", "points_BK2"]
    assert suffixed("MAX_SIZE = LABEL_W = 1\nnum_points = self.J_regressor\nbn2 = conv_00") == []
