"""Evaluation jobs: single clips (reconstruction, mesh) and pairs of clips (animation, swap)."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from safa.config.inference import AnimationConfig, EvaluateConfig, Mode
from safa.csv_files import CsvRow, read_csv
from safa.data.clip_store import ClipInfo
from safa.data.schema import ClipId
from safa.errors import UserError
from safa.files import Location, shown

SINGLE_CLIP_MODES = ("reconstruction", "mesh")  # a clip is its own source
LONGEST_NAME = 200  # characters of a folder's name; file systems allow 255


@dataclass(frozen=True, slots=True)
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


def read_pairs(location: Location, known: Container[str]) -> list[tuple[str, str]]:
    """Read (source, driving) clip ids in order from a CSV with these two columns; others are ignored.

    The list is read row by row, in time that grows with its length alone.

    Raises:
        UserError: as ``read_csv``, or a line makes no sense, repeats a pair, or names an unknown clip; or
            there is no pair.
    """
    pairs = list(_checked_pairs(read_csv(location, ("source", "driving")), location, known))
    if not pairs:
        raise UserError("no pairs in the columns source and driving", shown(location), "Add them.")
    return pairs


def _checked_pairs(
    rows: Iterable[CsvRow], location: Location, known: Container[str]
) -> Iterator[tuple[str, str]]:
    seen: set[tuple[str, str]] = set()
    for row in rows:
        where = f"{shown(location)}, line {row.line}"
        if row.problem:
            raise UserError(row.problem, where, "Fix the line.")
        pair = (row.fields["source"], row.fields["driving"])
        unknown = next((clip for clip in pair if clip not in known), None)
        if unknown is not None:
            raise UserError(
                f"no clip {unknown!r} in the evaluated splits", where, "Fix the pair, or the key splits."
            )
        if pair in seen:
            raise UserError("this pair is listed twice", where, "Remove one.")
        seen.add(pair)
        yield pair


def draw_pairs(clips: Sequence[ClipInfo], config: AnimationConfig) -> list[tuple[str, str]]:
    """Draw distinct pairs of (source, driving) clip ids of different people, in linear time.

    Every clip drives once before any drives again; its sources are drawn at random, each once.
    """
    rng = np.random.default_rng(config.seed)
    ordered = sorted(clips, key=lambda clip: (clip.person_id, clip.clip_id))
    total, of_person = len(ordered), Counter(clip.person_id for clip in ordered)
    first_of = {clip.person_id: number for number, clip in reversed([*enumerate(ordered)])}
    # The other people's clips are those behind a person's own, around the end. A driver takes them from a
    # random one on, in steps that meet each of them once.
    ways: list[tuple[int, int, int, int, int]] = []
    for driver in rng.permutation(total)[: config.pairs].tolist():
        person = ordered[driver].person_id
        others = total - of_person[person]
        if others:
            behind = first_of[person] + of_person[person]
            start, step = int(rng.integers(others)), _coprime(int(rng.integers(1, others + 1)), others)
            ways.append((driver, behind, others, start, step))
    pairs: list[tuple[str, str]] = []
    turn = 0
    while ways and len(pairs) < config.pairs:
        for driver, behind, others, start, step in ways[: config.pairs - len(pairs)]:
            source = ordered[(behind + (start + turn * step) % others) % total]
            pairs.append((source.clip_id, ordered[driver].clip_id))
        turn += 1
        ways = [way for way in ways if way[2] > turn]
    return pairs


def _coprime(number: int, other: int) -> int:
    """The first number from this one up that has no divisor in common with the other."""
    while math.gcd(number, other) > 1:
        number += 1
    return number
