"""The data loader of training: opens the clips, checks that they can be trained on, and loads batches ahead.

The samplers give any batch by number, so loading ahead in processes does not change what is loaded. One
process per CPU that is not training is a fair choice; with frames of 64 px and ``cache_mb`` large enough for
all of them the training process itself spends about 2 % of a step on them (``benchmarks/loader.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from safa.config.training import HeadStage, TrainConfig
from safa.data.clip_store import ClipStore
from safa.data.sampler import (
    ClipRef,
    FrameBatch,
    FrameCache,
    FrameSampler,
    PairBatch,
    PairSampler,
    SampleOrder,
)
from safa.errors import UserError
from safa.training.context import TrainContext
from safa.training.validate import HeldOutClip, read_held_out


class TrainingDataLoader:
    """The data of a run: batches for this worker, and its share of the held-out clips.

    Raises:
        UserError: no clips, frames of another size than the model's, no landmarks at all, or too few people.
    """

    def __init__(self, config: TrainConfig, context: TrainContext) -> None:
        data = config.data
        store = ClipStore(data.clips)
        train = _training_clips(store, config)
        order = SampleOrder(train, config.seed, data.num_repeats)
        reader = FrameCache(store, data.cache_mb)
        self._sampler: FrameSampler | PairSampler
        if isinstance(config.stage, HeadStage):
            self._sampler = FrameSampler(order, reader, data.jitter, config.stage)
        else:
            self._sampler = PairSampler(order, reader, data.jitter, config.stage.time_flip)
        self._config, self._context = config, context
        self.samples_per_epoch = order.samples_per_epoch
        self._samples_per_pass = data.batch_size * context.world_size
        self.samples_per_step = self._samples_per_pass * config.step.accumulate
        self.held_out: list[HeldOutClip] = []
        if config.validate_on is not None:
            held_out = _checked_clips(store, config.validate_on.split, config)
            self.held_out = read_held_out(held_out, store, config.validate_on, context)

    def batches(self, first_sample: int, steps: int) -> Iterator[FrameBatch | PairBatch]:
        """Load this worker's batches of ``steps`` steps, after ``first_sample`` samples of the run."""
        data = self._config.data
        begin = first_sample + self._context.rank * data.batch_size
        starts = range(begin, begin + steps * self.samples_per_step, self._samples_per_pass)
        loader: DataLoader[Any] = DataLoader(
            _BatchesByStart(self._sampler, data.batch_size),
            batch_size=None,  # the data set's items are whole batches
            sampler=starts,
            num_workers=data.loader_workers,
            pin_memory=self._context.device.type == "cuda",
            # A forked copy of a process with running threads (torch's, Ray's) can hang.
            multiprocessing_context="spawn" if data.loader_workers else None,
        )
        return iter(loader)


def check_clips(config: TrainConfig) -> None:
    """Refuse data that cannot be trained on, before anything else is started.

    Raises:
        UserError: as ``TrainingDataLoader``.
    """
    store = ClipStore(config.data.clips)
    _training_clips(store, config)
    if config.validate_on is not None:
        _checked_clips(store, config.validate_on.split, config)


class _BatchesByStart(Dataset[Any]):
    """A data set of batches; the index is the number of a batch's first sample."""

    def __init__(self, sampler: FrameSampler | PairSampler, size: int) -> None:
        self._sampler, self._size = sampler, size

    def __getitem__(self, start: int) -> FrameBatch | PairBatch:
        return self._sampler.batch(range(start, start + self._size))


def _training_clips(store: ClipStore, config: TrainConfig) -> list[ClipRef]:
    data, clips = config.data, _checked_clips(store, config.data.split, config)
    people = {clip.person for clip in clips}
    if len(people) < data.min_identities:
        raise UserError(
            f"{len(people)} identities in split '{data.split}', data.min_identities is {data.min_identities}",
            str(data.clips),
            "Preprocess more people, check that clip ids start with the person, or lower the setting.",
        )
    return clips


def _checked_clips(store: ClipStore, split: str, config: TrainConfig) -> list[ClipRef]:
    where, size = str(config.data.clips), config.model.image_size
    infos = [info for info in store.index if info.split == split and info.n_frames > 0]
    if not infos:
        raise UserError(f"no clip with frames in split '{split}'", where, "Run pipelines.preprocess first.")
    for info in infos:
        if (info.height, info.width) != (size, size):
            raise UserError(
                f"clip {info.clip_id} is {info.width}x{info.height} px, the model needs {size}x{size}",
                where,
                f"Preprocess at {size} px, or set model.image_size.",
            )
    clips = [ClipRef(info.clip_id, info.person_id, info.n_frames) for info in infos]
    if not _any_landmarks(store, clips):
        raise UserError(
            f"no frame of split '{split}' has landmarks", where, "Preprocess with a landmark source."
        )
    return clips


def _any_landmarks(store: ClipStore, clips: Sequence[ClipRef]) -> bool:
    """Whether any frame has landmarks; the first clip usually answers it."""
    return any(bool(np.isfinite(store.landmarks(clip.clip_id)).any()) for clip in clips)
