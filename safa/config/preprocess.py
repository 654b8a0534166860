"""Settings of preprocessing: videos to clips in Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from safa.config.loader import Settings


class EncodingConfig(Settings):
    """How stored frames are encoded."""

    format: Literal["jpeg", "png"] = "jpeg"
    quality: int = Field(default=95, ge=1, le=100)  # of jpeg


class MetadataSource(Settings):
    """Videos and a list of clips in them, in VoxCeleb's columns."""

    kind: Literal["metadata"]
    csv: Path  # columns video_id, start, end, bbox, fps, width, height, partition, person_id
    videos: Path  # folder of {video_id}.mp4 and their landmark sidecars {video_id}.landmarks.npy


class ClipsSource(Settings):
    """Videos that are crops of one face already; sidecars lie beside them."""

    kind: Literal["clips"]
    folder: Path  # of *.mp4; a name person#video#start#end is taken as the clip id
    split: Literal["train", "test"] = "train"


class PreprocessConfig(Settings):
    """One preprocessing run: source, what is stored, what is refused, and the share of the cluster."""

    source: Annotated[MetadataSource | ClipsSource, Field(discriminator="kind")]
    out: Path
    size: int = Field(default=256, ge=16)  # px, both sides of a stored frame
    fps: float = Field(default=25.0, gt=0)  # of the stored frames
    encoding: EncodingConfig = EncodingConfig()
    min_frames: int = Field(default=64, ge=1)  # shorter clips are refused (too_short)
    min_box: int = Field(default=256, ge=1)  # px; boxes with a shorter side are refused (too_small)
    max_outside: float = Field(
        default=0.25, ge=0, lt=1
    )  # share of a box that may lie outside the frame (border)
    piece_frames: int = Field(default=128, ge=1)  # frames in one row at most
    retry_quarantined: bool = False  # try clips again that an earlier run refused
    max_unexpected: float = Field(
        default=0.1, ge=0, le=1
    )  # share of `unexpected` failures that fails the run
    cpus_per_task: float = Field(default=1.0, gt=0)
