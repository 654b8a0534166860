"""What an evaluation does: clips rebuilt from their first frame, people animated by other people."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest

import numpy as np

from safa.config.inference import AnimationConfig, EvaluateConfig, Mode
from safa.data.clip_id import ClipId
from safa.data.store import ClipInfo
from safa.errors import UserError

LONGEST_NAME = 200  # characters of a folder's name; file systems take 255


@dataclass(frozen=True)
class EvaluationJob:
    """One clip to evaluate.

    ``source`` gives the face (its frame 0), ``driving`` the motion: clip ids, the same one in a
    reconstruction.
    """

    mode: Mode
    source: str
    driving: str

    @property
    def title(self) -> str:
        """For people: the clip, or source and driving clip."""
        return self.driving if self.source == self.driving else f"{self.source} ← {self.driving}"

    @property
    def folder_name(self) -> str:
        """A name for files and links, safe in both, one for each job of a mode.

        Raises:
            ValueError: an id that is not a clip id.
        """
        parts = dict.fromkeys((self.source, self.driving))
        name = "~~".join(str(ClipId.parse(part)).replace("#", "~") for part in parts)
        if len(name) <= LONGEST_NAME:
            return name
        return name[: LONGEST_NAME - 17] + "~" + hashlib.sha256(name.encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """As text, for a column of a data set."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> EvaluationJob:
        """The inverse of ``to_json``."""
        return cls(**json.loads(text))


def list_jobs(clips: Sequence[ClipInfo], config: EvaluateConfig) -> tuple[EvaluationJob, ...]:
    """All jobs of an evaluation of these clips, the same ones in every run.

    Raises:
        UserError: an animation of people, and there is only one.
    """
    jobs: list[EvaluationJob] = []
    if "reconstruction" in config.modes:
        jobs += [EvaluationJob("reconstruction", clip.clip_id, clip.clip_id) for clip in clips]
    if "animation" in config.modes:
        pairs = draw_pairs(clips, config.animation)
        if not pairs:
            raise UserError(
                "animation needs clips of two people, and there is one",
                str(config.clips),
                "Add splits, or set modes: [reconstruction].",
            )
        jobs += [EvaluationJob("animation", source, driving) for source, driving in pairs]
    return tuple(jobs)


def draw_pairs(clips: Sequence[ClipInfo], config: AnimationConfig) -> list[tuple[str, str]]:
    """Distinct (source, driving) clip ids of different people.

    Every clip drives once before one drives again; its sources are drawn at random.
    """
    rng = np.random.default_rng(config.seed)
    ordered = sorted(clips, key=lambda clip: clip.clip_id)
    drivers = [ordered[i] for i in rng.permutation(len(ordered))[: config.pairs]]
    of_driver = []
    for driver in drivers:
        others = [clip for clip in ordered if clip.person_id != driver.person_id]
        of_driver.append([(others[i].clip_id, driver.clip_id) for i in rng.permutation(len(others))])
    turns = chain.from_iterable(zip_longest(*of_driver))
    return [pair for pair in turns if pair is not None][: config.pairs]
