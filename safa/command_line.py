"""Command lines: what cannot be parsed is one line, with the flag that was most likely meant."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from safa.errors import EXIT_USER_ERROR, printable
from safa.paths import expanded


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and that knows flags by their whole names alone.

    An abbreviation that works today would name two flags after the next one is added.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options | {"allow_abbrev": False})
        self._words: Sequence[str] = ()  # of the command line, once it is parsed
        self.register("type", Path, _path)  # a shell leaves the ~ of --output=~/a.mp4 as it is

    def parse_args(  # type: ignore[override]  # of two overloads
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse the arguments; the program ends with code 2 where they cannot be understood."""
        words = sys.argv[1:] if args is None else args
        for parser in _parsers(self):
            parser._words = words
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            # Values of an unknown flag look like arguments of their own, so the flag is named first.
            word = next((each for each in unknown if each.startswith("-")), unknown[0])
            command = _command(self, words)
            meant = difflib.get_close_matches(word.partition("=")[0], sorted(_flags(command)), n=1)
            command.error(f"unknown argument {word}" + (f"; did you mean {meant[0]}?" if meant else ""))
        return found

    def _meant(self, message: str) -> str:
        """Which of the missing flags one on the command line stands for: ``--configs`` for ``--config``."""
        missing = set(re.findall(r"--[\w-]+", message)) if "arguments are required" in message else set()
        unknown = [word.partition("=")[0] for word in self._words if word.startswith("--")]
        for word in (word for word in unknown if word not in set(_flags(self))):
            if meant := difflib.get_close_matches(word, sorted(missing), n=1):
                return f"; did you mean {meant[0]} by {word}?"
        return ""

    def error(self, message: str) -> NoReturn:
        """End the program with one line."""
        message = _in_plain_words(message) + self._meant(message)
        text = message if message.endswith("?") else f"{message}."
        sys.stderr.write(f"error: {printable(text)} See `{self.prog} --help`.\n")
        sys.exit(EXIT_USER_ERROR)


def _path(text: str) -> Path:
    try:
        return expanded(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _in_plain_words(message: str) -> str:
    """What argparse says of values, in words for people who do not program; the nearest choice is named."""
    message = re.sub(r"invalid int value: (.*)", r"\1 is not a whole number", message)
    message = re.sub(r"invalid float value: (.*)", r"\1 is not a number", message)
    found = re.fullmatch(r"argument ([^ ]+): invalid choice: '(.*)' \(choose from (.*)\)", message)
    if found is None:
        return message
    name, word, choices = found.groups()
    meant = difflib.get_close_matches(word, [each.strip("' ") for each in choices.split(",")], n=1)
    hint = f"; did you mean {meant[0]}?" if meant else f"; there are {choices}"
    return f"unknown {name.lower() if name.isupper() else f'value of {name}:'} {word}{hint}"


def _command(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the command that the words name; the one that is given if they name none."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for number, word in enumerate(words):
                if word in action.choices:
                    return _command(action.choices[word], words[number + 1 :])
    return parser


def _parsers(parser: argparse.ArgumentParser) -> Iterator[Parser]:
    """A parser and those of its commands."""
    assert isinstance(parser, Parser)
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _parsers(command)


def _flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    """All flags of a parser and its commands."""
    for each in _parsers(parser):
        for action in each._actions:
            yield from action.option_strings
