"""Write the flags of every `safa` command into docs/cli.md, from the command line itself."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from safa.cli import build_parser

PAGE = Path(__file__).with_name("cli.md")
START = "<!-- flags: written by docs/cli_flags.py -->"
END = "<!-- end of flags -->"


def with_flags(page: str) -> str:
    """The page with the flags of today between its two marks."""
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    sections = [_section(name, parser) for name, parser in _commands(build_parser(), "safa")]
    return before + START + "\n\n" + "\n".join(sections) + END + after


def _commands(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that does something, with its full name."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield name, parser
    for group in groups:
        for word, below in group.choices.items():
            yield from _commands(below, f"{name} {word}")


def _section(name: str, parser: argparse.ArgumentParser) -> str:
    lines = [f"### {name}", ""]
    if parser.description:
        lines += [parser.description, ""]
    lines += ["| flag | what it does |", "|---|---|"]
    for action in parser._actions:
        if not isinstance(action, argparse._HelpAction):
            lines.append(f"| {_name(action)} | {(action.help or '').replace('|', ',')} |")
    return "\n".join(lines) + "\n"


def _name(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{action.metavar or action.dest.upper()}`" + (" ..." if action.nargs == "+" else "")
    value = "" if action.nargs == 0 else f" {_value(action)}"
    needed = " (needed)" if action.required else ""
    return ", ".join(f"`{flag}{value}`" for flag in action.option_strings) + needed


def _value(action: argparse.Action) -> str:
    return str(action.metavar or (action.dest.upper() if not action.choices else "NAME"))


if __name__ == "__main__":
    PAGE.write_text(with_flags(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
