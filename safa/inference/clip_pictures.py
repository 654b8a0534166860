"""What a person will look at: a clip's film, and a strip of some of its moments, made while it streams by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from safa.config.inference import PictureConfig
from safa.data.video import write_video
from safa.pictures.canvas import Picture
from safa.pictures.strips import Panel, captioned, chosen_frames, strip

FILM, STRIP = "film.mp4", "strip.jpg"
STRIP_QUALITY = 88  # of its JPEG


@dataclass(frozen=True)
class Shown:
    """One frame: the panels of the film, and how to make those of the strip, which few frames need."""

    film: list[Panel]
    strip: Callable[[], list[Panel]]


def write_pictures(
    folder: Path, shown: Iterable[Shown], n_frames: int, fps: float, pictures: PictureConfig
) -> None:
    """Write ``FILM`` and ``STRIP`` of ``n_frames`` frames."""
    chosen = frozenset(chosen_frames(n_frames, pictures.strip_frames))
    rows: list[list[Panel]] = []

    def frames() -> Iterator[Picture]:
        for number, frame in enumerate(shown):
            if number in chosen:
                rows.append(frame.strip())
            yield captioned(frame.film, pictures.panel)

    write_video(folder / FILM, frames(), fps, crf=pictures.crf)
    picture = Image.fromarray(strip(rows, pictures.panel))
    picture.save(folder / STRIP, "jpeg", quality=STRIP_QUALITY, subsampling=0)
