"""The description of the model has every section that code cites."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("safa", "pipelines", "benchmarks", "tests")
CITATION = re.compile(r"docs/model\.md,\s+sections?\s+([0-9][0-9a-z (),]*)")


def test_cited_sections_are_there() -> None:
    headings = re.findall(r"^## (\d+)\. ", (ROOT / "docs/model.md").read_text(), re.MULTILINE)
    assert headings == [str(number) for number in range(len(headings))]
    cited = {
        (str(path.relative_to(ROOT)), number)
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for citation in CITATION.findall(path.read_text())
        for number in re.findall(r"\d+", re.sub(r"\([^)]*\)", "", citation))
    }
    assert len(cited) > 20
    assert {(path, number) for path, number in cited if number not in headings} == set()


def test_paths_in_the_description_are_there() -> None:
    paths = re.findall(r"`((?:safa|pipelines)/[^`]*)`", (ROOT / "docs/model.md").read_text())
    assert [path for path in paths if not (ROOT / path).exists()] == []
