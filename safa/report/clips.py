"""The page of a preprocessing run: counts, distributions, and random clips with their landmarks drawn."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from safa.data.clip_facts import ClipFacts, Look, bins
from safa.pictures.points import with_landmarks
from safa.report.html import render, write_whole

PANEL = 160  # px of a picture on the contact sheet
COLOUR = (80, 255, 120)
QUALITY = 85


def write_page(path: Path, facts: ClipFacts, counts: Mapping[str, Any]) -> None:
    """Write the page, whole or not at all. It needs no other file and no network."""
    page = render(
        "clips.html",
        facts=facts,
        counts=counts,
        lengths=bins(facts.seconds),
        sizes=bins(facts.box_px),
        looks=[(look.clip_id, _address(look)) for look in facts.looks],
    )
    write_whole(path, page)


def _address(look: Look) -> str:
    """The frame with its landmarks as an address that holds the picture itself."""
    drawn = Image.fromarray(with_landmarks(look.picture, [(look.landmarks, COLOUR)], PANEL))
    drawn.thumbnail((2 * PANEL, 2 * PANEL))
    buffer = io.BytesIO()
    drawn.save(buffer, "jpeg", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
