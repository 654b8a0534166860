"""Words that are never right here: each stands for something that the field has a name for.

They are looked for in names (of files, too), messages, docstrings and prose. CHANGELOG.md may list the old
names in tables headed ``before | now``.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOTS = (
    "safa",
    "pipelines",
    "docs",
    "configs",
    "benchmarks",
    "tests",
    "README.md",
    "CHANGELOG.md",
    "Makefile",
)
SUFFIXES = {".py", ".md", ".yaml", ".html", ".css", ".js", ".txt", ".json", ""}

# What to say instead. A key of several words is looked for as neighbouring parts of a name.
INSTEAD = {
    "footage": "frame source",
    "film": "video",
    "films": "videos",
    "facebox": "crop box",
    "framing": "face tracking",
    "tube": "face track",
    "tubes": "face tracks",
    "judges": "scorers",
    "judged by": "best_metric",
    "judgement": "DiscriminatorOutput, score",
    "judgements": "DiscriminatorOutputs, scores",
    "write whole": "atomic_write",
    "claim folder": "lock_settings",
    "trunks": "backbones",
    "taps": "hooks",
    "undecided": "borderline",
    "clip facts": "dataset_stats",
    "mend": "fix",
    "mends": "fixes",
    "mended": "fixed",
    "mending": "fixing",
    "told": "reported",
    "goes on": "resumes, continues",
}
EXACT = {"PATIENCE": "NOT_HASHED"}  # as a constant's name; the plain word is fine
LONGEST = max(len(key.split()) for key in INSTEAD)
# The parts of names: HTTPServer is HTTP and Server, needs_films is needs and films.
PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# What may lie between two parts that are still neighbours: a space, an underscore, a line's end with the next
# line's comment sign or quotes. No full stop or comma.
BETWEEN = re.compile(r"""[\s_#*"'-]*""")
OTHERS = re.compile("YouTube")  # is nobody's tube
RENAMES = re.compile(r"^\| before \| now \|\n(?:\|.*\n)+", re.MULTILINE)


def wrong_words(text: str) -> Iterator[tuple[int, str]]:
    """(line from 1, word) of every word that is never right."""
    text = OTHERS.sub(lambda name: " " * len(name.group()), text)
    parts = list(PART.finditer(text))
    line, counted = 1, 0
    for i, part in enumerate(parts):
        line, counted = line + text.count("\n", counted, part.start()), part.start()
        if part.group() in EXACT:
            yield line, part.group()
        for count in range(1, LONGEST + 1):
            run = parts[i : i + count]
            key = " ".join(each.group().lower() for each in run)
            joined = all(BETWEEN.fullmatch(text[a.end() : b.start()]) for a, b in pairwise(run))
            if len(run) == count and key in INSTEAD and joined:
                yield line, key


def without_renames(text: str) -> str:
    """The text with the tables of renames blanked; lines keep their numbers."""
    return RENAMES.sub(lambda table: "\n" * table.group().count("\n"), text)


def tracked_files() -> list[Path]:
    """Text files of the repository, this one aside."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so nobody knows which files belong to it")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *ROOTS]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    paths = [ROOT / name for name in listed if Path(name).suffix in SUFFIXES]
    return [path for path in paths if path.is_file() and path != Path(__file__)]


def test_no_word_that_is_never_right() -> None:
    found: list[str] = []
    for path in tracked_files():
        name = str(path.relative_to(ROOT))
        found += [
            f"{name}: the name has {word!r}, use {INSTEAD.get(word, '')}" for _, word in wrong_words(name)
        ]
        text = path.read_text(encoding="utf-8")
        if path.name == "CHANGELOG.md":
            text = without_renames(text)
        for line, word in dict.fromkeys(wrong_words(text)):
            found.append(f"{name}:{line}: {word!r}, use {(INSTEAD | EXACT)[word]}")
    assert not found, "\n".join([f"{len(found)} words that are never right:", *found])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("class SecondFilm:", [(1, "film")]),
        ("needs_films = 1", [(1, "films")]),
        ("def mend():", [(1, "mend")]),
        ("recommend, amends, stolduntold, filming", []),
        ("the run goes\n    # on", [(1, "goes on")]),
        ('"goes "\n"on"', [(1, "goes on")]),
        ("wherever it goes, on Ray", []),
        ("GoesOn", [(1, "goes on")]),
        ("x\njudged_by(judge)", [(2, "judged by")]),
        ("PATIENCE = 1; patience", [(1, "PATIENCE")]),
        ("YouTube\na tube", [(2, "tube")]),
        ("WRITE_WHOLE", [(1, "write whole")]),
    ],
)
def test_words_are_found_in_names_and_across_lines(text: str, expected: list[tuple[int, str]]) -> None:
    assert list(wrong_words(text)) == expected


def test_renames_may_have_old_names() -> None:
    text = "film\n\n| before | now |\n|---|---|\n| `Film` | `Video` |\n\ntold\n"
    assert list(wrong_words(without_renames(text))) == [(1, "film"), (7, "told")]
