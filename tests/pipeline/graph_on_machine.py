"""Runs the graph with a GPU stage on a machine of so many logical CPUs and GPUs: one line of JSON.

``python graph_on_machine.py CPUS GPUS FOLDER OUT``: FOLDER has the clips. The detector is a function that
takes no time, in place of networks whose weights are not here.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.data import DataContext

from pipelines import clip_stages, preprocess
from safa.config.preprocess import (
    ClipsSource,
    DetectorConfig,
    FaceAlignmentLandmarks,
    LandmarkStage,
    PreprocessConfig,
    StagesConfig,
)
from safa.data.landmarks import Landmarks


def detect(frames: Any) -> Landmarks:
    """The brightness of a frame in place of its landmarks."""
    shades = np.array([frame.mean() for frame in frames], np.float32)
    return Landmarks(np.tile(shades[:, None, None], (1, 68, 2)), shades)


class Runner(clip_stages.StageRunner):
    """With ``detect`` in place of networks."""

    def _stage(self, stage: str, name: str) -> Any:
        clip_stages.make_detector = lambda config: detect
        return super()._stage(stage, name)


def make_config(folder: Path, out: Path, gpus: int) -> PreprocessConfig:
    """Settings with a landmark network, on GPUs if there are any."""
    detector = DetectorConfig(name="sfd", weights=folder)
    return PreprocessConfig(
        source=ClipsSource(kind="clips", folder=folder),
        out=out,
        landmarks=FaceAlignmentLandmarks(kind="face_alignment", detector=detector, weights=folder),
        stages=StagesConfig(landmarks=LandmarkStage(gpus=0.5 if gpus else 0.0, actors=(1, 4), batch=10)),
        size=32,
        min_frames=4,
        min_box=16,
        piece_frames=8,
    )


def main() -> None:
    """Make the clips; print the counts, and the operators of the graph."""
    cpus, gpus, folder, out = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    ray.init("local", num_cpus=cpus, num_gpus=gpus, include_dashboard=False, logging_level=logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False
    context.execution_no_progress_timeout_s = 60
    preprocess.StageRunner = Runner  # type: ignore[misc]
    preprocess.check_detector = lambda config: None
    config = make_config(folder, out, gpus)
    counts = preprocess.preprocess(config).counts
    operators = [operator.stages for operator in preprocess.operators(config)]
    sys.stdout.write(json.dumps({"counts": counts, "operators": operators}) + "\n")


if __name__ == "__main__":
    main()
