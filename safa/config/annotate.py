"""Settings of a later pass over a data set: one more column for frames that are stored already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from safa.config.loader import Settings
from safa.config.preprocess import DlibLandmarksConfig, FaceAlignmentLandmarks, PoolStage
from safa.files import Location


class LandmarksColumn(Settings):
    """68 landmarks of each frame by another detector. A training can choose the column."""

    kind: Literal["landmarks"]
    detector: Annotated[DlibLandmarksConfig | FaceAlignmentLandmarks, Field(discriminator="kind")]


class IdentityColumn(Settings):
    """An embedding of who is seen in each frame."""

    kind: Literal["identity"]
    # "dlib", of the faces with stored landmarks; or TorchScript: images (B, 3, S, S) in [0, 1] to (B, D).
    weights: Literal["dlib"] | Path = "dlib"
    device: str = "cpu"  # or cuda


class QualityColumn(Settings):
    """Sharpness and exposure of each frame."""

    kind: Literal["quality"]


class AnnotateStage(PoolStage):
    """The processes that compute the column."""

    batch: int = Field(default=64, ge=1)  # frames, of whatever clips


class AnnotateConfig(Settings):
    """One column of a data set, in its folder ``columns/NAME/``."""

    clips: Location  # data set written by pipelines/preprocess: its clips/
    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$")  # of the column
    column: Annotated[LandmarksColumn | IdentityColumn | QualityColumn, Field(discriminator="kind")]
    stage: AnnotateStage = AnnotateStage()
    max_unexpected: float = Field(default=0.1, ge=0, le=1)  # share of `unexpected` that fails the run
