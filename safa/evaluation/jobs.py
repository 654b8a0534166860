"""What an evaluation does: clips by themselves (rebuilt, in 3D), and pairs of clips (animated, swapped)."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np

from safa.config.inference import AnimationConfig, EvaluateConfig, Mode
from safa.data.clip_store import ClipInfo
from safa.data.schema import ClipId
from safa.errors import UserError

ALONE = ("reconstruction", "mesh")  # modes in which a clip is its own source
LONGEST_NAME = 200  # characters of a folder's name; file systems take 255


@dataclass(frozen=True)
class EvaluationJob:
    """One clip to evaluate.

    ``source`` gives the face (its frame 0), ``driving`` the motion: clip ids, the same one in a
    reconstruction and in mode mesh.
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
        UserError: an animation of people, and there is only one; or a list of pairs with an unknown clip.
    """
    jobs = [
        EvaluationJob(mode, clip.clip_id, clip.clip_id)
        for mode in config.modes
        if mode in ALONE
        for clip in clips
    ]
    in_pairs = [mode for mode in config.modes if mode not in ALONE]
    pairs = _pairs(clips, config) if in_pairs else []
    jobs += [EvaluationJob(mode, source, driving) for mode in in_pairs for source, driving in pairs]
    return tuple(jobs)


def _pairs(clips: Sequence[ClipInfo], config: EvaluateConfig) -> list[tuple[str, str]]:
    if config.animation.csv is not None:
        return read_pairs(config.animation.csv, {clip.clip_id for clip in clips})
    pairs = draw_pairs(clips, config.animation)
    if not pairs:
        raise UserError(
            "animation needs clips of two people, and there is one",
            str(config.clips),
            "Add splits, or set modes: [reconstruction].",
        )
    return pairs


def read_pairs(path: Path, known: Container[str]) -> list[tuple[str, str]]:
    """(source, driving) clip ids from a CSV with these two columns, in its order; others are ignored.

    Raises:
        UserError: unreadable, a column is missing, empty, a pair twice, or a clip that is not evaluated.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot be read ({error})", str(path), "Fix animation.csv.") from None
    if not rows or not {"source", "driving"} <= set(rows[0]):
        raise UserError("no pairs in columns source and driving", str(path), "Add them.")
    pairs: list[tuple[str, str]] = []
    for number, row in enumerate(rows, start=2):
        pair = ((row["source"] or "").strip(), (row["driving"] or "").strip())
        where = f"{path}, line {number}"
        unknown = next((clip for clip in pair if clip not in known), None)
        if unknown is not None:
            raise UserError(f"no clip {unknown!r} in the splits evaluated", where, "Fix the pair or splits.")
        if pair in pairs:
            raise UserError("the same pair twice", where, "Remove one.")
        pairs.append(pair)
    return pairs


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
