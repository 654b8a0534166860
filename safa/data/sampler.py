"""Samples and batches of training: single frames (stage 1) or frame pairs (stage 2).

A sample is drawn as identity -> clip -> frames, from an endless order. Sample n of a run is a pure function
of (data, seed, n), and worker r of W takes its share of every global batch. So the order does not depend on
loader processes, 1 worker of batch 8 sees what 2 workers of batch 4 see, and resuming needs one number: how
many samples were consumed.

Images are (B, 3, H, W) float32 RGB in [0, 1]. Landmarks are (B, 68, 2) iBUG points in pixels of the frame; a
frame without a face has NaN there, and the landmark loss leaves it out.

An epoch is every identity ``num_repeats`` times, shuffled anew each epoch (docs/model.md, section 7, "Data").
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from safa.config.training import HeadStage, JitterConfig, SimilarityConfig
from safa.data.augment import ColourShift, Similarity, jitter_colours, mirror
from safa.data.clip_store import ClipStore

MEBIBYTE = 2**20


# ---- batches -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Batch:
    """The base of both kinds of batch. ``clip_ids`` names the clip that each sample came from."""

    clip_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.clip_ids)

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format) -> Self:
        """Move the batch to ``device``; its images (the 4-d tensors) take ``memory_format``."""

        def move(tensor: Tensor) -> Tensor:
            if tensor.ndim == 4:
                return tensor.to(device, non_blocking=True, memory_format=memory_format)
            return tensor.to(device, non_blocking=True)

        return self._map(move)

    def pin_memory(self) -> Self:
        """Copy the batch to page-locked memory, so that copies to a GPU overlap. For ``DataLoader``."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Any) -> Self:
        fields: dict[str, Any] = vars(self)
        return type(self)(**{k: function(v) if isinstance(v, Tensor) else v for k, v in fields.items()})


@dataclass(frozen=True)
class FrameBatch(_Batch):
    """Single frames for the head stage: ``image`` (B, 3, H, W), ``landmarks`` (B, 68, 2)."""

    image: Tensor
    landmarks: Tensor


@dataclass(frozen=True)
class PairBatch(_Batch):
    """Two frames of one clip each: ``source`` is to be animated into ``driving`` (both (B, 3, H, W))."""

    source: Tensor
    driving: Tensor
    source_landmarks: Tensor
    driving_landmarks: Tensor


MEBIBYTE = 2**20

B = TypeVar("B", FrameBatch, PairBatch)


# ---- reading frames ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClipTable:
    """The clips that are drawn from, as arrays, so that a million of them take a few MB.

    Attributes:
        numbers: (N,), of the clips in their store, grouped by person, people in the order of their ids.
        first: (P + 1,), where each person's clips begin in ``numbers``.
    """

    numbers: NDArray[np.int64]
    first: NDArray[np.int64]

    @property
    def num_people(self) -> int:
        return len(self.first) - 1


def clip_table(store: ClipStore, split: str) -> ClipTable:
    """The clips of a split by person."""
    numbers = store.numbers(split)
    people = store.column("person_id").take(pa.array(numbers)).dictionary_encode()
    rank = np.argsort(pc.sort_indices(people.dictionary).to_numpy())  # (P,): each name's place in their order
    person = rank[people.indices.to_numpy(zero_copy_only=False)] if len(numbers) else np.empty(0, np.int64)
    order = np.argsort(person, kind="stable")  # clips of a person stay in the order of their ids
    counts = np.bincount(person, minlength=len(people.dictionary))
    first = np.append(0, np.cumsum(counts))
    return ClipTable(numbers[order], first)


class FrameReader(Protocol):
    """Random access to decoded frames of numbered clips; ``ClipStore`` and ``FrameCache`` are two."""

    def frames(self, clip: int, indices: Sequence[int]) -> list[np.ndarray]:
        """(H, W, 3) uint8 RGB each, in the order asked for."""
        ...

    def landmarks(self, clip: int, indices: Sequence[int]) -> np.ndarray:
        """(N, 68, 2) float32 pixels, NaN where there is no face."""
        ...

    def has_face(self, clip: int) -> np.ndarray:
        """(T,) bool: which frames show a face."""
        ...

    def clip_id(self, clip: int) -> str:
        """The clip's id."""
        ...


class FrameCache:
    """Keeps decoded frames of a reader in memory until a byte budget is full.

    Nothing is evicted: frames are drawn at random, so any full cache serves the same share of requests, and
    one that never evicts does the least work.
    """

    def __init__(self, reader: FrameReader, budget_mb: int) -> None:
        self._reader, self._room = reader, budget_mb * MEBIBYTE
        self._frames: dict[tuple[int, int], np.ndarray] = {}

    def frames(self, clip: int, indices: Sequence[int]) -> list[np.ndarray]:
        """See ``FrameReader``."""
        missing = sorted({i for i in indices if (clip, i) not in self._frames})
        read = dict(zip(missing, self._reader.frames(clip, missing), strict=True)) if missing else {}
        for i, frame in read.items():
            if frame.nbytes <= self._room:
                self._room -= frame.nbytes
                self._frames[clip, i] = frame
        return [read[i] if i in read else self._frames[clip, i] for i in indices]

    def landmarks(self, clip: int, indices: Sequence[int]) -> np.ndarray:
        """See ``FrameReader``: 544 bytes a frame are read anew."""
        return self._reader.landmarks(clip, indices)

    def has_face(self, clip: int) -> np.ndarray:
        """See ``FrameReader``."""
        return self._reader.has_face(clip)

    def clip_id(self, clip: int) -> str:
        """See ``FrameReader``."""
        return self._reader.clip_id(clip)


# ---- the order of samples ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draw:
    """One entry of the sample order: a clip's number, and the generator for every further choice."""

    clip: int
    rng: np.random.Generator


class SampleOrder:
    """The endless order of samples.

    Args:
        clips: those of a split.
        seed: of the run.
        num_repeats: how often each identity comes up in an epoch.
    """

    def __init__(self, clips: ClipTable, seed: int, num_repeats: int) -> None:
        if clips.num_people == 0:
            raise ValueError("no clips to draw from")
        self._clips, self._seed, self._repeats = clips, seed, num_repeats
        self._shuffled: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    @property
    def samples_per_epoch(self) -> int:
        """Identities times repeats."""
        return self._clips.num_people * self._repeats

    def draw(self, n: int) -> Draw:
        """Sample ``n`` of the run, n >= 0."""
        epoch, place = divmod(n, self.samples_per_epoch)
        person = int(self._identities(epoch)[place]) % self._clips.num_people
        rng = np.random.default_rng((self._seed, 1, epoch, place))
        first, end = int(self._clips.first[person]), int(self._clips.first[person + 1])
        return Draw(int(self._clips.numbers[first + int(rng.integers(end - first))]), rng)

    def _identities(self, epoch: int) -> np.ndarray:
        if self._shuffled[0] != epoch:
            order = np.random.default_rng((self._seed, 0, epoch)).permutation(self.samples_per_epoch)
            self._shuffled = (epoch, order)
        return self._shuffled[1]


def choose_frames(has_face: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    """``count`` rising frame numbers, drawn with replacement, of frames with a face where there are any."""
    with_face = np.flatnonzero(has_face)
    candidates = with_face if len(with_face) else np.arange(len(has_face))
    return sorted(int(i) for i in candidates[rng.integers(len(candidates), size=count)])


# ---- samplers ----------------------------------------------------------------------------------------------


class _Sampler(ABC, Generic[B]):
    """The base of both samplers: draw, read the chosen frames only, jitter the colours of a sample alike."""

    def __init__(self, order: SampleOrder, reader: FrameReader, jitter: JitterConfig) -> None:
        self._order, self._reader, self._jitter = order, reader, jitter

    def batch(self, numbers: Sequence[int]) -> B:
        """Make a batch of the samples with these numbers."""
        points, ids = [], []
        images: Tensor | None = None
        for index, n in enumerate(numbers):
            draw = self._order.draw(n)
            frames, sample_points = self._sample(draw.clip, draw.rng)
            points.append(sample_points)  # (N, 68, 2)
            ids.append(self._reader.clip_id(draw.clip))
            # One sample at a time: floats of a whole batch would be new pages of memory at every turn.
            # (N, H, W, 3) -> (N, 3, H, W); as bytes, which are a quarter of the floats to move
            pixels = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()
            sample = pixels.to(torch.float32).div_(255)[None]  # (1, N, 3, H, W), [0, 1]
            if images is None:
                images = sample.new_empty(len(numbers), *sample.shape[1:])  # (B, N, 3, H, W)
            images[index] = jitter_colours(sample, [ColourShift.draw(draw.rng, self._jitter)])[0]
        assert images is not None
        landmarks = torch.from_numpy(np.stack(points))  # (B, N, 68, 2) px
        return self._pack(tuple(ids), images, landmarks)

    @abstractmethod
    def _sample(self, clip: int, rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
        """N frames (H, W, 3) uint8 and their landmarks (N, 68, 2)."""

    @abstractmethod
    def _pack(self, ids: tuple[str, ...], images: Tensor, landmarks: Tensor) -> B:
        """The batch for the step."""


NO_SIMILARITY = SimilarityConfig()  # leaves every frame as it is


class FrameSampler(_Sampler[FrameBatch]):
    """Single frames for the head stage; a share of them is mirrored, and each may be placed anew."""

    def __init__(
        self, order: SampleOrder, reader: FrameReader, jitter: JitterConfig, stage: HeadStage
    ) -> None:
        super().__init__(order, reader, jitter)
        self._mirrored, self._similarity = stage.mirror, stage.similarity

    def _sample(self, clip: int, rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
        chosen = choose_frames(self._reader.has_face(clip), 1, rng)
        (frame,) = self._reader.frames(clip, chosen)
        (points,) = self._reader.landmarks(clip, chosen)
        if rng.random() < self._mirrored:
            frame, points = mirror(frame, points)
        if self._similarity != NO_SIMILARITY:
            frame, points = Similarity.draw(rng, self._similarity, frame.shape[1]).apply(frame, points)
        return [frame], points[None]  # (68, 2) -> (1, 68, 2)

    def _pack(self, ids: tuple[str, ...], images: Tensor, landmarks: Tensor) -> FrameBatch:
        return FrameBatch(ids, images[:, 0], landmarks[:, 0])  # (B, 3, H, W), (B, 68, 2)


class PairSampler(_Sampler[PairBatch]):
    """Two frames of a clip for the full stage; a share of the pairs is in reversed order."""

    def __init__(
        self, order: SampleOrder, reader: FrameReader, jitter: JitterConfig, time_flip: float
    ) -> None:
        super().__init__(order, reader, jitter)
        self._reversed = time_flip

    def _sample(self, clip: int, rng: np.random.Generator) -> tuple[list[np.ndarray], np.ndarray]:
        chosen = self.choose(clip, rng)
        return self._reader.frames(clip, chosen), self._reader.landmarks(clip, chosen)

    def choose(self, clip: int, rng: np.random.Generator) -> list[int]:
        """The frames of a sample: source, then driving."""
        chosen = choose_frames(self._reader.has_face(clip), 2, rng)
        if rng.random() < self._reversed:
            chosen.reverse()
        return chosen

    def _pack(self, ids: tuple[str, ...], images: Tensor, landmarks: Tensor) -> PairBatch:
        source, driving = images.unbind(1)  # (B, 2, 3, H, W) -> two of (B, 3, H, W)
        source_landmarks, driving_landmarks = landmarks.unbind(1)  # (B, 2, 68, 2) -> two of (B, 68, 2)
        return PairBatch(ids, source, driving, source_landmarks, driving_landmarks)
