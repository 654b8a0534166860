"""Who is who in clips that come without names, and who of them is held out.

Each clip of a raw video has an embedding of the face, averaged over its frames. Clips whose embeddings are
near are of one person, which average linkage decides (Sokal and Michener, 1958); two faces in the same frames
are never one person. A person is named after the first video that shows them. What has been decided is kept
in ``people.parquet`` of the run's folder: clips that come later join the people who are there, or make new
ones.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from safa.data.schema import is_safe_name
from safa.files import Location, atomic_file, exists, join, local_file, shown
from safa.reading import boundary
from safa.tables import read_table

PEOPLE = "people.parquet"
# Distance of mean embeddings (dlib's, 128 numbers), up to which clips are of one person. Of six real videos,
# parts of one were at most 0.31 apart, and those of two at least 0.54.
SAME_PERSON = 0.5
AT_ONCE = 2048  # clips that are compared with each other; more are compared with the people found so far
NEVER = 1e12  # distance of two faces in the same frames: no average with it is small
ROWS_AT_ONCE = 64  # of clusters against people: 50,000 people take 25 MB

Split = Literal["train", "test"]
SCHEMA = pa.schema(
    [
        pa.field("person_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),  # train or test
        pa.field("clips", pa.list_(pa.string()), nullable=False),  # of raw videos: video#start#end#number
        pa.field("embedding", pa.list_(pa.float32())),  # mean over the clips; null: nobody has looked
        pa.field("embedded", pa.int32(), nullable=False),  # number of clips in this mean
    ]
)


@dataclass(frozen=True)
class SeenClip:
    """A clip with one unknown face: frames ``start`` to ``end`` (exclusive) of a video.

    Attributes:
        video: the video's name without suffix.
        number: of the faces over the very same frames, which one; from 0.
        embedding: (D,) float32; None where no network has looked.
    """

    video: str
    start: int
    end: int
    number: int = 0
    embedding: NDArray[np.float32] | None = field(default=None, compare=False)

    @property
    def key(self) -> str:
        """What ``people.parquet`` calls the clip."""
        return f"{self.video}#{self.start}#{self.end}#{self.number}"

    def overlaps(self, other: SeenClip) -> bool:
        """Whether both faces are in some frame, so that they are two people."""
        return self.video == other.video and self.start < other.end and other.start < self.end


@dataclass(frozen=True)
class Person:
    """A person with the keys of their clips; ``split`` is empty until it is decided.

    ``embedding`` (D,) float32 is the mean over ``embedded`` of the clips; None where no network has looked.
    """

    name: str
    split: str = ""
    clips: tuple[str, ...] = ()
    embedding: NDArray[np.float32] | None = field(default=None, compare=False)
    embedded: int = 0


# ---- who is who --------------------------------------------------------------------------------------------


def find_people(clips: Iterable[SeenClip], known: Sequence[Person]) -> list[Person]:
    """Return the people of these clips: those who are known, with their new clips, then new ones.

    A clip that a known person has stays theirs. A clip without embedding counts as the person that its video
    is named after.
    """
    there = {key for person in known for key in person.clips}
    fresh = sorted(
        (clip for clip in clips if clip.key not in there), key=lambda c: (c.video, c.start, c.number, c.end)
    )
    found = _Found(known)
    for part in _parts(fresh):
        found.add(part)
    return found.people


class _Found:
    """The people so far, and what they are seen in among the videos at hand."""

    def __init__(self, known: Sequence[Person]) -> None:
        self.people = list(known)
        self._number = {person.name: number for number, person in enumerate(known)}
        self._clips: dict[int, list[SeenClip]] = {}

    def add(self, clips: Sequence[SeenClip]) -> None:
        """Add all clips of some videos."""
        self._clips = {}
        clusters = _clusters([clip for clip in clips if clip.embedding is not None])
        if clusters:
            self._add_clusters(clusters)
        for clip in clips:
            if clip.embedding is None:
                self._add_by_name(clip)

    def _add_clusters(self, clusters: Sequence[Sequence[SeenClip]]) -> None:
        """Join each to the nearest of the people who were there before, or make a person of it.

        Args:
            clusters: clips of one person each; pairs are matched from the smallest distance up.
        """
        means = np.stack([_mean(cluster) for cluster in clusters])  # (C, D)
        nearest = _nearest(means, self.people)
        for index in sorted(range(len(clusters)), key=lambda index: (nearest[index][0], index)):
            cluster, (distance, number) = clusters[index], nearest[index]
            if distance > SAME_PERSON or self._meets(number, cluster):
                number = self._new(cluster[0].video)
            self._join(number, cluster, means[index])

    def _add_by_name(self, clip: SeenClip) -> None:
        """Add a clip without embedding to the person who is named after its video."""
        for name in _names(clip.video):
            number = self._number.get(name)
            if number is None:
                number = self._new(clip.video)
            if not self._meets(number, [clip]):
                self._join(number, [clip], None)
                return

    def _meets(self, number: int, clips: Sequence[SeenClip]) -> bool:
        """Whether somebody is seen beside one of these faces."""
        return any(clip.overlaps(other) for other in self._clips.get(number, ()) for clip in clips)

    def _new(self, video: str) -> int:
        name = next(name for name in _names(video) if name not in self._number)
        self._number[name] = len(self.people)
        self.people.append(Person(name))
        return len(self.people) - 1

    def _join(self, number: int, clips: Sequence[SeenClip], mean: NDArray[np.float32] | None) -> None:
        person = self.people[number]
        self._clips.setdefault(number, []).extend(clips)
        joined = replace(person, clips=(*person.clips, *(clip.key for clip in clips)))
        if mean is not None:
            before = 0.0 if person.embedding is None else person.embedding * person.embedded
            total = person.embedded + len(clips)
            embedding = np.asarray((before + mean * len(clips)) / total, np.float32)
            joined = replace(joined, embedding=embedding, embedded=total)
        self.people[number] = joined


def _names(video: str) -> Iterator[str]:
    """Names for people who are first seen in this video."""
    yield video
    number = 2
    while True:
        yield f"{video[:116]}.{number}"
        number += 1


def _parts(clips: Sequence[SeenClip]) -> Iterator[list[SeenClip]]:
    """Successive clips, about ``AT_ONCE`` of them; those of a video stay together."""
    part: list[SeenClip] = []
    for clip in clips:
        if len(part) >= AT_ONCE and clip.video != part[-1].video:
            yield part
            part = []
        part.append(clip)
    if part:
        yield part


def _clusters(clips: Sequence[SeenClip]) -> list[list[SeenClip]]:
    """Clips of one person each, in the order of their first ones."""
    if len(clips) < 2:
        return [[clip] for clip in clips]
    # Here and below: every worker that crops imports this file, and only the driver has people to tell apart.
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import pdist

    distances = pdist(np.stack([_embedding(clip) for clip in clips]))  # (N * (N - 1) / 2,)
    for i, clip in enumerate(clips):
        row = i * len(clips) - i * (i + 1) // 2  # where the distances of clip i to those after it begin
        for j, other in enumerate(clips[i + 1 :]):
            if clip.video != other.video:
                break  # clips are in the order of their videos
            if clip.overlaps(other):
                distances[row + j] = NEVER
    labels = fcluster(linkage(distances, "average"), SAME_PERSON, "distance")  # (N,)
    clusters: dict[int, list[SeenClip]] = {}
    for clip, label in zip(clips, labels.tolist(), strict=True):
        clusters.setdefault(label, []).append(clip)
    return list(clusters.values())


def _embedding(clip: SeenClip) -> NDArray[np.float32]:
    assert clip.embedding is not None
    return clip.embedding


def _mean(clips: Sequence[SeenClip]) -> NDArray[np.float32]:
    mean: NDArray[np.float32] = np.mean([_embedding(clip) for clip in clips], axis=0, dtype=np.float32)
    return mean


def _nearest(means: NDArray[np.float32], people: Sequence[Person]) -> list[tuple[float, int]]:
    """For each mean (C, D) the distance and the number of the nearest person; infinite if there is none."""
    numbers = [number for number, person in enumerate(people) if person.embedding is not None]
    if not numbers:
        return [(np.inf, -1)] * len(means)
    from scipy.spatial.distance import cdist

    known = np.stack([person.embedding for person in people if person.embedding is not None])  # (P, D)
    found: list[tuple[float, int]] = []
    for first in range(0, len(means), ROWS_AT_ONCE):
        distances = cdist(means[first : first + ROWS_AT_ONCE], known)  # (at most ROWS_AT_ONCE, P)
        best = distances.argmin(axis=1)
        found += [(float(row[index]), numbers[index]) for row, index in zip(distances, best, strict=True)]
    return found


# ---- who is held out ---------------------------------------------------------------------------------------


def with_splits(people: Sequence[Person], held_out: float) -> list[Person]:
    """Hold out about a share of the people, and nobody of whom there is one only.

    People with a split keep it. The others are taken in the order of a hash of their names, so that the
    choice depends on nothing else.

    Args:
        held_out: share of the people, in (0, 1); of two or more people one at least is held out, and one is
            not.
    """
    wanted = min(max(1, round(held_out * len(people))), len(people) - 1)
    missing = max(0, wanted - sum(person.split == "test" for person in people))
    without = sorted((person.name for person in people if not person.split), key=_shuffled)
    test = set(without[:missing])
    return [
        person if person.split else replace(person, split="test" if person.name in test else "train")
        for person in people
    ]


def _shuffled(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def in_words(people: Sequence[Person]) -> str:
    """How many people there are and how many of them are held out, for the log."""
    held_out = sum(person.split == "test" for person in people)
    if len(people) == 1:
        return f"one person ({people[0].name}); with split: auto nobody is held out of fewer than two"
    return f"{len(people)} people, {held_out} of them held out"


# ---- their file --------------------------------------------------------------------------------------------


def read_people(folder: Location) -> list[Person]:
    """The people of a run's folder; nobody if there is no file.

    Raises:
        UserError: the file is damaged.
    """
    where = join(folder, PEOPLE)
    if not exists(where):
        return []
    fix = "Delete the whole folder: without this file people get other names and splits."
    with local_file(where) as path:
        table = read_table(path, SCHEMA.names)
    with boundary(shown(where), "not a list of people", fix):
        people = [_person(row) for row in table.cast(SCHEMA).to_pylist()]
        if len({len(person.embedding) for person in people if person.embedding is not None}) > 1:
            raise ValueError("embeddings of several lengths")
        if max(Counter(person.name for person in people).values(), default=1) > 1:
            raise ValueError("somebody is there twice")
    return people


def _person(row: dict[str, Any]) -> Person:
    """A person of a row of ``SCHEMA``.

    Raises:
        ValueError: a value that cannot be.
    """
    embedding = None if row["embedding"] is None else np.asarray(row["embedding"], np.float32)
    if embedding is not None and not (len(embedding) and np.isfinite(embedding).all()):
        raise ValueError("an embedding that is not of numbers")
    if not is_safe_name(row["person_id"]) or row["split"] not in ("", "train", "test"):
        raise ValueError(f"{row['person_id'][:40]!a} in the split {row['split'][:40]!a}")
    if row["embedded"] < 0:
        raise ValueError("a count that is negative")
    return Person(row["person_id"], row["split"], tuple(map(str, row["clips"])), embedding, row["embedded"])


def write_people(folder: Location, people: Sequence[Person]) -> None:
    """Write what ``read_people`` reads, atomically."""
    rows = [
        {
            "person_id": person.name,
            "split": person.split,
            "clips": list(person.clips),
            "embedding": None if person.embedding is None else person.embedding.tolist(),
            "embedded": person.embedded,
        }
        for person in people
    ]
    with atomic_file(join(folder, PEOPLE)) as path:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
