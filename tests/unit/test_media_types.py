"""Suffixes and limits: docs/inputs.md says what the code does, and files of systems do not count."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from safa.limits import LIMITS
from safa.media_types import FRAMES, PHOTOS, VIDEOS, is_frame, is_photo, is_video

PAGE = (Path(__file__).parents[2] / "docs" / "inputs.md").read_text(encoding="utf-8")


def test_the_page_lists_the_suffixes_of_the_code() -> None:
    for kind, suffixes in (("videos", VIDEOS), ("photos", PHOTOS)):
        (listed,) = re.findall(rf"^\| {kind} \| `([^`]+)`", PAGE, re.MULTILINE)
        assert sorted(listed.split()) == sorted(suffixes)
    assert " ".join(FRAMES) in PAGE


def test_the_page_lists_the_limits_of_the_code() -> None:
    for name in ("pixels", "frames", "seconds"):
        assert f"| `{name}` | {LIMITS[name].default:,} " in PAGE
    for name, shown in (("decoder_bytes", 2**30 * 4), ("photo_bytes", 2**30), ("decoder_seconds", 120)):
        assert f"| `{name}` |" in PAGE
        assert LIMITS[name].default == shown


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("a.MP4", "v"),
        ("a.b.webm", "v"),
        ("a.PNG", "pf"),
        ("a.heic", "p"),
        ("._a.mp4", ""),
        (".DS_Store", ""),
        ("Thumbs.db", ""),
        ("mp4", ""),
        ("a.mp4.part", ""),
    ],
)
def test_kinds_of_names(name: str, kinds: str) -> None:
    found = [letter for letter, of in zip("vpf", (is_video, is_photo, is_frame), strict=True) if of(name)]
    assert "".join(found) == kinds
