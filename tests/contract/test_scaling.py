"""docs/scaling.md: its hours and bytes follow from its rates, and its rates are those of the other guides."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "scaling.md").read_text(encoding="utf-8")
ELSEWHERE = (DOCS / "data.md").read_text(encoding="utf-8") + (DOCS / "training.md").read_text(
    encoding="utf-8"
)
CORES = 32
HOURS = {"min": 1 / 60, "h": 1.0, "days": 24.0}


def _number(text: str) -> float:
    return float(text.replace(",", ""))


def _symbol(name: str) -> str:
    (value,) = re.findall(rf"^\| {name} \|.*\| ([^|]+) \|$", TEXT, re.MULTILINE)
    return str(value)


def _rate(name: str) -> float:
    return _number(_symbol(name).split()[0])


def _frames() -> list[float]:
    return [_number(each.split()[0]) * 1e6 for each in _symbol("F").split(" / ")]


def test_bytes_and_core_hours_follow_from_the_rates() -> None:
    few, many = _frames()
    stored = re.search(r"stored bytes = F b: ([\d.]+) GiB and ([\d.]+) TiB", TEXT)
    assert stored is not None
    assert few * _rate("b") * 1e3 / 2**30 == pytest.approx(_number(stored[1]), rel=0.02)
    assert many * _rate("b") * 1e3 / 2**40 == pytest.approx(_number(stored[2]), rel=0.02)
    for rate in ("c", "l"):
        hours = re.search(rf"F / \(3600 {rate}\): (?:about )?([\d.,]+) and ([\d.,]+)[.;]", TEXT)
        assert hours is not None
        found = [_number(each.rstrip(".")) for each in hours.groups()]
        assert [few / 3600 / _rate(rate), many / 3600 / _rate(rate)] == pytest.approx(found, rel=0.02)


def test_the_table_follows_from_core_hours() -> None:
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) (\w+) \| ([\d.]+) (\w+) \|", TEXT, re.MULTILINE)
    assert [row[0] for row in rows] == ["1", "8", "64"]
    for nodes, *cells in rows:
        found = [_number(cells[0]) * HOURS[cells[1]], _number(cells[2]) * HOURS[cells[3]]]
        hours = [frames / 3600 / _rate("l") / (int(nodes) * CORES) for frames in _frames()]
        assert hours == pytest.approx(found, rel=0.04)


def test_its_rates_are_those_of_the_guides() -> None:
    for quoted in (
        f"{_rate('b')} kB a frame",
        f"{_rate('c'):g} frames of 720p per core and second",
        "85 GiB",
        "7.2 core-hours",
    ):
        assert quoted in ELSEWHERE, quoted
    pairs = re.search(r"decoding \((\d+) pairs a core and second\)", TEXT)
    assert pairs is not None
    assert re.search(rf"pairs per CPU second, jitter, .*\| {pairs[1]} \|", ELSEWHERE)
