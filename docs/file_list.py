"""Write the README's file list, one line per file, from the first sentence of each.

``make format`` runs it.
"""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BEGIN, END = "<!-- files: written by docs/file_list.py -->", "<!-- end of files -->"
LISTED = (".py", ".yaml", ".html", ".css", ".js", ".md")
# Files that cannot say themselves what they are.
OTHERS = {
    "CHANGELOG.md": "Dated results, the negative ones too",
    "Makefile": "Targets; `make help` lists them",
    "constraints.txt": "Every version that was tested",
    "docs/demo.jpg": "The picture above",
    "docs/head_sheet.png": "The built-in head: 5 people, 5 expressions, 3 views",
    "pyproject.toml": "Packages with honest ranges; settings of ruff, mypy and pytest",
    "safa/report/templates/clips.html": "Page of a preprocessing run",
    "safa/report/templates/page.css": "Looks of the report, light and dark",
    "safa/report/templates/page.html": "The report's page",
    "safa/report/templates/base.html": "What all pages share: head, style, script",
    "safa/report/templates/compare.html": "Page of a comparison",
    "safa/report/templates/page.js": "Sorting, filtering and players of the report",
    "safa/report/templates/parts.html": "Parts that the page uses more than once",
}


def described(path: Path) -> str:
    """The first sentence of a file about itself.

    Raises:
        ValueError: it has none.
    """
    name = path.relative_to(ROOT).as_posix()
    if name in OTHERS:
        return OTHERS[name]
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        docstring = ast.get_docstring(ast.parse(text)) or ""
        first = " ".join(docstring.split("\n\n")[0].split())
    else:
        first = text.split("\n")[0].lstrip("# ")
    sentence = re.split(r"(?<=\w)[.:;] (?=[A-Z])", first)[0].rstrip(".")
    if not sentence:
        raise ValueError(f"{name} does not say what it is; give it a first line")
    return sentence.replace("``", "`")


def listed() -> list[Path]:
    """Files of the repository that are worth a line; tests are one line per folder in the README's text."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    paths = [ROOT / name for name in names if not name.startswith("tests/") and name != "README.md"]
    wanted = [p for p in paths if p.suffix in LISTED or p.relative_to(ROOT).as_posix() in OTHERS]
    return sorted(p for p in wanted if p.exists() and p.stat().st_size > 0)


def file_list() -> str:
    """Markdown: a heading per folder, a line per file."""
    folders: dict[str, list[Path]] = {}
    for path in listed():
        folders.setdefault(path.parent.relative_to(ROOT).as_posix(), []).append(path)
    lines: list[str] = []
    for folder, paths in sorted(folders.items()):
        lines += ["", f"**{'.' if folder == '.' else folder + '/'}**", ""]
        lines += [f"- `{path.name}`: {described(path)}" for path in paths]
    return "\n".join(lines).strip() + "\n"


def with_list(readme: str) -> str:
    """The README's text with the list of today."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{file_list()}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(with_list(README.read_text(encoding="utf-8")), encoding="utf-8")
