"""Inputs to try the page with: two people that don't exist, drawn by the built-in data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from safa.config.synthetic import SyntheticConfig
from safa.data.synthetic import write_dataset
from safa.data.video import read_frames


@dataclass(frozen=True)
class Example:
    """Attributes: photo of one person; video of the other."""

    photo: Path
    video: Path


def make_example(folder: Path) -> Example:
    """Draw them, once; takes some seconds."""
    config = SyntheticConfig(
        seed=4,
        num_people=2,
        num_held_out=1,
        videos_per_person=1,
        frames_per_video=50,
        frame_size=(256, 256),
        face_share=(0.55, 0.6),  # as VoxCeleb frames a face, so that nothing has to be cut
    )
    if not (folder / "photo.png").is_file():
        write_dataset(config, folder / "people", workers=1)
        first, _ = _videos(folder)
        Image.fromarray(next(read_frames(first))).save(folder / "photo.png")
    return Example(folder / "photo.png", _videos(folder)[1])


def _videos(folder: Path) -> list[Path]:
    return sorted((folder / "people" / "videos").glob("*.mp4"))
