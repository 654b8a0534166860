"""Templates of this package to pages, and pages to files."""

from __future__ import annotations

import os
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined


def render(template: str, /, **values: object) -> str:
    """A template with its values, as text. Everything put into it is escaped; a missing value is an error."""
    environment = Environment(
        loader=PackageLoader("safa.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


def write_whole(path: Path, text: str) -> None:
    """Write a text that appears whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
