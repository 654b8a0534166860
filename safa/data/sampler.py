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
import torch
from torch import Tensor

from safa.config.training import HeadStage, JitterConfig, SimilarityConfig
from safa.data.augment import ColourShift, Similarity, jitter_colours, mirror

MEBIBYTE = 2**20
LANDMARKS_MB = 64  # kept of landmarks, whatever the budget for frames: about 600 clips of 200 frames


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


B = TypeVar("B", FrameBatch, PairBatch)


# ---- reading frames ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClipRef:
    """What the sampler needs to know of a clip."""

    clip_id: str
    person: str
    n_frames: int


class FrameReader(Protocol):
    """Random access to decoded frames; ``ClipStore`` and ``FrameCache`` are two."""

    def frames(self, clip_id: str, indices: Sequence[int]) -> list[np.ndarray]:
        """Decoded frames, (H, W, 3) uint8 RGB each, in the order asked for."""
        ...

    def landmarks(self, clip_id: str) -> np.ndarray:
        """All landmarks of a clip, (T, 68, 2) float32 pixels, NaN where there is no face."""
        ...


class FrameCache:
    """Keeps landmarks and decoded frames of a reader in memory, each until its byte budget is full.

    Nothing is evicted: frames are drawn at random, so any full cache serves the same share of requests, and
    one that never evicts does the least work.
    """

    def __init__(self, reader: FrameReader, budget_mb: int) -> None:
        self._reader = reader
        self._frame_room, self._landmark_room = budget_mb * MEBIBYTE, LANDMARKS_MB * MEBIBYTE
        self._frames: dict[tuple[str, int], np.ndarray] = {}
        self._landmarks: dict[str, np.ndarray] = {}

    def frames(self, clip_id: str, indices: Sequence[int]) -> list[np.ndarray]:
        """See ``FrameReader``."""
        missing = sorted({i for i in indices if (clip_id, i) not in self._frames})
        read = dict(zip(missing, self._reader.frames(clip_id, missing), strict=True)) if missing else {}
        for i, frame in read.items():
            if frame.nbytes <= self._frame_room:
                self._frame_room -= frame.nbytes
                self._frames[clip_id, i] = frame
        return [read[i] if i in read else self._frames[clip_id, i] for i in indices]

    def landmarks(self, clip_id: str) -> np.ndarray:
        """See ``FrameReader``."""
        if clip_id in self._landmarks:
            return self._landmarks[clip_id]
        landmarks = self._reader.landmarks(clip_id)
        if landmarks.nbytes <= self._landmark_room:
            self._landmark_room -= landmarks.nbytes
            self._landmarks[clip_id] = landmarks
        return landmarks


# ---- the order of samples ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draw:
    """One entry of the sample order: a clip, and the generator for every further choice of this sample."""

    clip: ClipRef
    rng: np.random.Generator


class SampleOrder:
    """The endless order of samples.

    Args:
        clips: every clip of the split; their order does not matter.
        seed: of the run.
        num_repeats: how often each identity comes up in an epoch.
    """

    def __init__(self, clips: Sequence[ClipRef], seed: int, num_repeats: int) -> None:
        by_person: dict[str, list[ClipRef]] = {}
        for clip in sorted(clips, key=lambda c: c.clip_id):
            by_person.setdefault(clip.person, []).append(clip)
        if not by_person:
            raise ValueError("no clips to draw from")
        self._people = [by_person[person] for person in sorted(by_person)]
        self._seed, self._repeats = seed, num_repeats
        self._shuffled: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    @property
    def samples_per_epoch(self) -> int:
        """Number of identities times repeats."""
        return len(self._people) * self._repeats

    def draw(self, n: int) -> Draw:
        """Draw sample ``n`` of the run, n >= 0."""
        epoch, index = divmod(n, self.samples_per_epoch)
        clips = self._people[int(self._identities(epoch)[index]) % len(self._people)]
        rng = np.random.default_rng((self._seed, 1, epoch, index))
        return Draw(clips[int(rng.integers(len(clips)))], rng)

    def _identities(self, epoch: int) -> np.ndarray:
        if self._shuffled[0] != epoch:
            order = np.random.default_rng((self._seed, 0, epoch)).permutation(self.samples_per_epoch)
            self._shuffled = (epoch, order)
        return self._shuffled[1]


def choose_frames(landmarks: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    """Draw ``count`` rising frame numbers with replacement, of frames with a face where there are any."""
    with_face = np.flatnonzero(np.isfinite(landmarks).all(axis=(1, 2)))
    candidates = with_face if len(with_face) else np.arange(len(landmarks))
    return sorted(int(i) for i in candidates[rng.integers(len(candidates), size=count)])


# ---- samplers ----------------------------------------------------------------------------------------------


class _Sampler(ABC, Generic[B]):
    """The base of both samplers: draw, read the chosen frames only, jitter the colours of a sample alike."""

    def __init__(self, order: SampleOrder, reader: FrameReader, jitter: JitterConfig) -> None:
        self._order, self._reader, self._jitter = order, reader, jitter

    def batch(self, numbers: Sequence[int]) -> B:
        """Make a batch of the samples with these numbers."""
        frames, points, shifts, ids = [], [], [], []
        for n in numbers:
            draw = self._order.draw(n)
            sample_frames, sample_points = self._sample(draw.clip.clip_id, draw.rng)
            frames.append(np.stack(sample_frames))  # (N, H, W, 3)
            points.append(np.stack(sample_points))  # (N, 68, 2)
            shifts.append(ColourShift.draw(draw.rng, self._jitter))
            ids.append(draw.clip.clip_id)
        # (B, N, H, W, 3) -> (B, N, 3, H, W)
        pixels = torch.from_numpy(np.stack(frames)).permute(0, 1, 4, 2, 3)
        # (B, N, 3, H, W), [0, 1]
        images = pixels.to(torch.float32, memory_format=torch.contiguous_format) / 255
        landmarks = torch.from_numpy(np.stack(points))  # (B, N, 68, 2) px
        return self._pack(tuple(ids), jitter_colours(images, shifts), landmarks)

    @abstractmethod
    def _sample(self, clip_id: str, rng: np.random.Generator) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Choose N frames (H, W, 3) uint8 and their landmarks (68, 2)."""

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

    def _sample(self, clip_id: str, rng: np.random.Generator) -> tuple[list[np.ndarray], list[np.ndarray]]:
        landmarks = self._reader.landmarks(clip_id)
        chosen = choose_frames(landmarks, 1, rng)
        (frame,) = self._reader.frames(clip_id, chosen)
        points = landmarks[chosen[0]]
        if rng.random() < self._mirrored:
            frame, points = mirror(frame, points)
        if self._similarity != NO_SIMILARITY:
            frame, points = Similarity.draw(rng, self._similarity, frame.shape[1]).apply(frame, points)
        return [frame], [points]

    def _pack(self, ids: tuple[str, ...], images: Tensor, landmarks: Tensor) -> FrameBatch:
        return FrameBatch(ids, images[:, 0], landmarks[:, 0])  # (B, 3, H, W), (B, 68, 2)


class PairSampler(_Sampler[PairBatch]):
    """Two frames of a clip for the full stage; a share of the pairs is in reversed order."""

    def __init__(
        self, order: SampleOrder, reader: FrameReader, jitter: JitterConfig, time_flip: float
    ) -> None:
        super().__init__(order, reader, jitter)
        self._reversed = time_flip

    def _sample(self, clip_id: str, rng: np.random.Generator) -> tuple[list[np.ndarray], list[np.ndarray]]:
        landmarks = self._reader.landmarks(clip_id)
        chosen = choose_frames(landmarks, 2, rng)
        if rng.random() < self._reversed:
            chosen.reverse()
        return self._reader.frames(clip_id, chosen), [landmarks[i] for i in chosen]

    def _pack(self, ids: tuple[str, ...], images: Tensor, landmarks: Tensor) -> PairBatch:
        source, driving = images.unbind(1)  # (B, 2, 3, H, W) -> two of (B, 3, H, W)
        source_landmarks, driving_landmarks = landmarks.unbind(1)  # (B, 2, 68, 2) -> two of (B, 68, 2)
        return PairBatch(ids, source, driving, source_landmarks, driving_landmarks)
