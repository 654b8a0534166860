"""The data loader of training: opens the clips, checks that they can be trained on, and loads batches ahead.

The samplers give any batch by number, so loading ahead in processes does not change what is loaded. One
process per CPU that is not training is a fair choice; with frames of 64 px and ``cache_mb`` large enough for
all of them the training process itself spends about 2 % of a step on them (``benchmarks/loader.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from safa.config.training import HeadStage, TrainConfig
from safa.data.clip_store import VERIFY, ClipStore
from safa.data.sampler import (
    ClipTable,
    FrameBatch,
    FrameCache,
    FrameSampler,
    PairBatch,
    PairSampler,
    SampleOrder,
    clip_table,
)
from safa.data.schema import SYNTHETIC_PERSON
from safa.errors import ClipError, UserError
from safa.files import shown
from safa.training.context import TrainContext
from safa.training.validate import HeldOutClip, read_held_out


class TrainingDataLoader:
    """The data of a run: batches for this worker, and its share of the held-out clips.

    Raises:
        UserError: no clips, frames of another size than the model's, no landmarks at all, or too few people.
    """

    def __init__(self, config: TrainConfig, context: TrainContext) -> None:
        data = config.data
        store = ClipStore(data.clips, data.stage_to, data.stage_gb, data.landmarks)
        train = _training_clips(store, config)
        people = store.column("person_id").unique().to_pylist()
        self.trained_on = "synthetic" if all(map(SYNTHETIC_PERSON.fullmatch, people)) else ""
        order = SampleOrder(train, config.seed, data.num_repeats)
        reader = FrameCache(store, data.cache_mb)
        self._sampler: FrameSampler | PairSampler
        if isinstance(config.stage, HeadStage):
            self._sampler = FrameSampler(order, reader, data.jitter, config.stage)
        else:
            self._sampler = PairSampler(order, reader, data.jitter, config.stage.time_flip)
        self._config, self._context = config, context
        self.samples_per_epoch = order.samples_per_epoch
        batches = data.batches_of(context.world_size)
        self._batch_size, self._first = batches[context.rank], sum(batches[: context.rank])
        self._samples_per_pass = sum(batches)
        self.samples_per_step = self._samples_per_pass * config.step.accumulate
        self.held_out: list[HeldOutClip] = []
        if config.validate_on is not None:
            _check_split(store, config.validate_on.split, config)
            with _naming(config):
                self.held_out = read_held_out(store, config.validate_on, context)

    def batches(self, first_sample: int, steps: int) -> Iterator[FrameBatch | PairBatch]:
        """Load this worker's batches of ``steps`` steps, after ``first_sample`` samples of the run.

        Raises:
            UserError: while they are taken, if a stored frame is damaged.
        """
        data = self._config.data
        begin = first_sample + self._first
        starts = range(begin, begin + steps * self.samples_per_step, self._samples_per_pass)
        loader: DataLoader[Any] = DataLoader(
            _BatchesByStart(self._sampler, self._batch_size),
            batch_size=None,  # the data set's items are whole batches
            sampler=starts,
            num_workers=data.loader_workers,
            pin_memory=self._context.device.type == "cuda",
            # A forked copy of a process with running threads (torch's, Ray's) can hang.
            multiprocessing_context="spawn" if data.loader_workers else None,
        )
        # Started here: torch draws a seed for it from the global generator, which each step sets anew.
        return self._intact(iter(loader))

    def _intact(self, batches: Iterator[Any]) -> Iterator[FrameBatch | PairBatch]:
        for batch in batches:
            with _naming(self._config):
                if isinstance(batch, ClipError):
                    raise batch
            yield batch


def check_clips(config: TrainConfig) -> None:
    """Refuse data that cannot be trained on, before anything else is started.

    Raises:
        UserError: as ``TrainingDataLoader``.
    """
    store = ClipStore(config.data.clips, landmarks=config.data.landmarks)
    _training_clips(store, config)
    if config.validate_on is not None:
        _check_split(store, config.validate_on.split, config)


class _BatchesByStart(Dataset[Any]):
    """A data set of batches; the index is the number of a batch's first sample."""

    def __init__(self, sampler: FrameSampler | PairSampler, size: int) -> None:
        self._sampler, self._size = sampler, size

    def __getitem__(self, start: int) -> FrameBatch | PairBatch | ClipError:
        """A batch, or a damaged frame's error as data: torch makes a page of what a process raises."""
        try:
            return self._sampler.batch(range(start, start + self._size))
        except ClipError as error:
            return error


@contextmanager
def _naming(config: TrainConfig) -> Iterator[None]:
    """End the block by a line that names the data set, where a stored clip is damaged.

    Raises:
        UserError: in place of a ``ClipError``.
    """
    try:
        yield
    except ClipError as error:
        raise UserError(f"damaged ({error})", shown(config.data.clips), VERIFY) from None


def _training_clips(store: ClipStore, config: TrainConfig) -> ClipTable:
    data = config.data
    _check_split(store, data.split, config)
    clips = clip_table(store, data.split)
    if clips.num_people < data.min_identities:
        raise UserError(
            f"{clips.num_people} identities in split '{data.split}', data.min_identities is "
            f"{data.min_identities}",
            shown(data.clips),
            "Preprocess more people, check that clip ids start with the person, or lower the setting.",
        )
    return clips


def _check_split(store: ClipStore, split: str, config: TrainConfig) -> None:
    where, size = shown(config.data.clips), config.model.image_size
    numbers = store.numbers(split)
    if len(numbers) == 0:
        splits = ", ".join(sorted(set(store.column("split").unique().to_pylist())))
        fix = f"It has {splits}."
        if split != config.data.split:
            fix += (
                " Nobody is held out where one person alone was found: preprocess more people, with"
                " source.identity=null if one was found for several, or set validate_on=null."
            )
        raise UserError(f"no clips in split '{split}'", where, fix)
    sides = [store.column(name).to_numpy(zero_copy_only=False)[numbers] for name in ("height", "width")]
    other = np.flatnonzero((sides[0] != size) | (sides[1] != size))
    if len(other):
        info = store.info(int(numbers[other[0]]))
        raise UserError(
            f"clip {info.clip_id} is {info.width}x{info.height} px, the model needs {size}x{size}",
            where,
            f"Preprocess at {size} px, or set model.image_size.",
        )
    if not any(store.has_face(int(number)).any() for number in numbers):  # usually settled by the first clip
        raise UserError(
            f"no frame of split '{split}' has landmarks", where, "Preprocess with a landmark source."
        )
