"""Windows: the runs of frames that an evaluation hands out, so that a long clip spreads over many workers.

A window of a clip with a target begins one frame early: flicker compares a frame with the one before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from safa.evaluation.jobs import EvaluationJob


@dataclass(frozen=True, slots=True)
class Window:
    """Frames ``first`` to ``last`` (excluded) of a job.

    Attributes:
        job: what is done with the clip.
        number: of the job in the list of jobs, which is the same in every run.
        index: of the window in its clip.
        n_frames: of the whole job.
        shown: whether a video and a strip are made of the clip.
    """

    job: EvaluationJob
    number: int
    index: int
    first: int
    last: int
    n_frames: int
    shown: bool

    @property
    def is_whole(self) -> bool:
        """Whether the clip has no other window."""
        return self.first == 0 and self.last == self.n_frames

    @property
    def begins_early(self) -> bool:
        """Whether the frame before the first one is read, too."""
        return self.first > 0 and self.job.mode == "reconstruction"

    def to_json(self) -> str:
        """Return the window as JSON, for a column of a table."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Window:
        """Read a window from what ``to_json`` returned."""
        plain: dict[str, Any] = json.loads(text)
        return cls(**plain | {"job": EvaluationJob(**plain["job"])})


def count_windows(n_frames: int, length: int) -> int:
    """How many windows of at most ``length`` frames a clip has."""
    return -(-n_frames // length)


def windows_of(
    job: EvaluationJob, number: int, n_frames: int, length: int, *, shown: bool
) -> Iterator[Window]:
    """Cut a job into windows of at most ``length`` frames."""
    for index, first in enumerate(range(0, n_frames, length)):
        yield Window(job, number, index, first, min(first + length, n_frames), n_frames, shown)


def draw_shown(jobs: Sequence[EvaluationJob], videos: int | None) -> frozenset[int]:
    """Choose the jobs of which videos are made, the same in every run: as many of each mode, at random.

    Args:
        videos: how many at most; None: all.

    Returns:
        Numbers of jobs.
    """
    if videos is None or videos >= len(jobs):
        return frozenset(range(len(jobs)))
    of_mode: dict[str, list[int]] = {}
    for number, job in enumerate(jobs):
        of_mode.setdefault(job.mode, []).append(number)
    rng, chosen = np.random.default_rng(0), list[int]()
    # Modes with few jobs first: what they leave goes to the others.
    for left, numbers in zip(range(len(of_mode), 0, -1), sorted(of_mode.values(), key=len), strict=True):
        share = min(len(numbers), (videos - len(chosen)) // left)
        chosen += [numbers[i] for i in rng.choice(len(numbers), share, replace=False).tolist()]
    return frozenset(chosen)
