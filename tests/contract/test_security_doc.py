"""docs/security.md names limits as they are, and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

from safa.limits import LIMITS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
UNITS = {"MiB": 2**20, "GiB": 2**30}


def test_the_page_lists_all_limits_with_their_defaults() -> None:
    table = re.findall(r"^\| (`[a-z_]+`[^|]*) \| ([0-9][^|]*) \|$", PAGE, re.MULTILINE)
    listed: dict[str, int] = {}
    for names, values in table:
        keys = re.findall(r"`([a-z_]+)`", names)
        numbers = re.findall(r"([0-9,]*[0-9]) ?(GiB|MiB)?", values)
        assert len(keys) == len(numbers), names
        listed |= {
            key: int(number.replace(",", "")) * UNITS.get(unit, 1)
            for key, (number, unit) in zip(keys, numbers, strict=True)
        }
    assert listed == {name: limit.default for name, limit in LIMITS.items()}


def test_the_tests_that_the_page_names_are_there() -> None:
    named = set(re.findall(r"`(tests/[^`]+)`", PAGE))
    assert len(named) > 15
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
