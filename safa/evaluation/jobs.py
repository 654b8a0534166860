"""Evaluation jobs: single clips (reconstruction, mesh) and pairs of clips (animation, swap)."""

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
from safa.files import shown

SINGLE_CLIP_MODES = ("reconstruction", "mesh")  # a clip is its own source
LONGEST_NAME = 200  # characters of a folder's name; file systems allow 255


@dataclass(frozen=True)
class EvaluationJob:
    """One evaluation of one clip or of a pair of clips.

    Attributes:
        mode: what is done.
        source: id of the clip whose frame 0 gives the face.
        driving: id of the clip that gives the motion; the same one in a reconstruction and in mode mesh.
    """

    mode: Mode
    source: str
    driving: str

    @property
    def title(self) -> str:
        """The clip, or source and driving clip, for people to read."""
        return self.driving if self.source == self.driving else f"{self.source} ← {self.driving}"

    @property
    def folder_name(self) -> str:
        """A folder name that is safe in paths and links, and unique among the jobs of a mode.

        Raises:
            ValueError: an id is not a clip id.
        """
        parts = dict.fromkeys((self.source, self.driving))
        name = "~~".join(str(ClipId.parse(part)).replace("#", "~") for part in parts)
        if len(name) <= LONGEST_NAME:
            return name
        return name[: LONGEST_NAME - 17] + "~" + hashlib.sha256(name.encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Return the job as JSON, for a column of a table."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> EvaluationJob:
        """Read a job from what ``to_json`` returned."""
        return cls(**json.loads(text))


def list_jobs(clips: Sequence[ClipInfo], config: EvaluateConfig) -> tuple[EvaluationJob, ...]:
    """List all jobs of an evaluation of these clips; the list is the same in every run.

    Raises:
        UserError: pairs are needed and all clips show one person, or a list of pairs names an unknown clip.
    """
    jobs = [
        EvaluationJob(mode, clip.clip_id, clip.clip_id)
        for mode in config.modes
        if mode in SINGLE_CLIP_MODES
        for clip in clips
    ]
    pair_modes = [mode for mode in config.modes if mode not in SINGLE_CLIP_MODES]
    pairs = _pairs(clips, config) if pair_modes else []
    jobs += [EvaluationJob(mode, source, driving) for mode in pair_modes for source, driving in pairs]
    return tuple(jobs)


def _pairs(clips: Sequence[ClipInfo], config: EvaluateConfig) -> list[tuple[str, str]]:
    if config.animation.csv is not None:
        return read_pairs(config.animation.csv, {clip.clip_id for clip in clips})
    pairs = draw_pairs(clips, config.animation)
    if not pairs:
        raise UserError(
            "animation needs clips of two people, but there is only one",
            shown(config.clips),
            "Add splits, or set modes: [reconstruction].",
        )
    return pairs


def read_pairs(path: Path, known: Container[str]) -> list[tuple[str, str]]:
    """Read (source, driving) clip ids in order from a CSV with these two columns; others are ignored.

    Raises:
        UserError: the file is unreadable or empty, lacks a column, repeats a pair, or names an unknown clip.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot be read ({error})", str(path), "Fix the key animation.csv.") from None
    if not rows or not {"source", "driving"} <= set(rows[0]):
        raise UserError("no pairs in the columns source and driving", str(path), "Add them.")
    pairs: list[tuple[str, str]] = []
    for number, row in enumerate(rows, start=2):
        pair = ((row["source"] or "").strip(), (row["driving"] or "").strip())
        where = f"{path}, line {number}"
        unknown = next((clip for clip in pair if clip not in known), None)
        if unknown is not None:
            raise UserError(
                f"no clip {unknown!r} in the evaluated splits", where, "Fix the pair, or the key splits."
            )
        if pair in pairs:
            raise UserError("this pair is listed twice", where, "Remove one.")
        pairs.append(pair)
    return pairs


def draw_pairs(clips: Sequence[ClipInfo], config: AnimationConfig) -> list[tuple[str, str]]:
    """Draw distinct pairs of (source, driving) clip ids of different people.

    Every clip drives once before any drives again; its sources are drawn at random.
    """
    rng = np.random.default_rng(config.seed)
    ordered = sorted(clips, key=lambda clip: clip.clip_id)
    drivers = [ordered[i] for i in rng.permutation(len(ordered))[: config.pairs]]
    pairs_by_driver = []
    for driver in drivers:
        others = [clip for clip in ordered if clip.person_id != driver.person_id]
        order = rng.permutation(len(others))
        pairs_by_driver.append([(others[i].clip_id, driver.clip_id) for i in order])
    in_turns = chain.from_iterable(zip_longest(*pairs_by_driver))
    return [pair for pair in in_turns if pair is not None][: config.pairs]
