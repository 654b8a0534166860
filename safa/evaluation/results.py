"""What an evaluation says of one clip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from safa.evaluation.frame_scores import CLIP_SCORES
from safa.evaluation.jobs import EvaluationJob

_PLACE = {score: i for i, score in enumerate(CLIP_SCORES)}


class ScoreRow(Mapping[str, float]):
    """One row of a table of scores, by their names; it keeps no numbers of its own.

    Args:
        row: (len(CLIP_SCORES),).
    """

    __slots__ = ("_row",)

    def __init__(self, row: NDArray[np.float64]) -> None:
        self._row = row

    def __getitem__(self, score: str) -> float:
        return float(self._row[_PLACE[score]])

    def __iter__(self) -> Iterator[str]:
        return iter(_PLACE)

    def __len__(self) -> int:
        return len(_PLACE)


@dataclass(frozen=True, slots=True)
class ClipResult:
    """The result of one job.

    Attributes:
        job: what was done.
        source_person: id of the person who gives the face.
        driving_person: id of the person who gives the motion.
        n_frames: number of driving frames; in a reconstruction the first of them is the source.
        fps: frames per second of the video.
        scores: means over frames; NaN, or missing, where no frame has one. An animation or a swap has no
            target, so it has only scores that need none.
        seconds: working time.
        shown: whether there are a video and a strip.
    """

    job: EvaluationJob
    source_person: str
    driving_person: str
    n_frames: int
    fps: float
    scores: Mapping[str, float]
    seconds: float
    shown: bool = True
