"""The table itself sees: a key without a row is named, and a wire that is cut fails its row."""

from __future__ import annotations

import argparse
from typing import Annotated, Literal

import pytest
from pydantic import Field

from safa.config import Settings
from tests.contract.wires.table import Row, Table, are, check, keys_of, options_of, plain_key, with_key


class Part(Settings):
    depth: int = 1


class Red(Settings):
    kind: Literal["red"]
    shade: int = 1


class Blue(Settings):
    kind: Literal["blue"]
    part: Part = Part()


class Whole(Settings):
    size: int = 1
    part: Part | None = None
    colour: Annotated[Red | Blue, Field(discriminator="kind")]


def test_every_key_of_every_branch_is_found() -> None:
    assert list(keys_of(Whole)) == [
        *("size", "part.depth", "colour.kind", "colour[Red].shade", "colour[Blue].part.depth")
    ]
    assert plain_key("colour[Blue].part.depth") == "colour.part.depth"
    assert with_key({"colour": {"kind": "blue"}}, "colour[Blue].part.depth", 2) == {
        "colour": {"kind": "blue", "part": {"depth": 2}}
    }


def test_every_option_of_every_command_is_found() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    one = commands.add_parser("one")
    one.add_argument("input")
    one.add_argument("-o", "--output")
    commands.add_parser("two").add_subparsers().add_parser("deep").add_argument("--flag")
    assert list(options_of(parser)) == ["one input", "one --output", "two deep --flag"]


def test_what_has_no_row_is_named() -> None:
    table = Table("planted", [Row("size", 1, 2, lambda *_: None, are(1, 2))], {"part.depth": "a reason"})
    known = keys_of(Whole)
    assert table.missing(known) == ["colour.kind", "colour[Red].shade", "colour[Blue].part.depth"]
    assert table.unknown(["size"]) == ["part.depth"]


def test_a_cut_wire_fails() -> None:
    row = Row("size", 1, 2, lambda value: value, are(1, 2))
    check(None, row, row.look)
    with pytest.raises(AssertionError, match="size: 1 gives 1, 2 gives 1"):
        check(None, row, lambda _: 1)
