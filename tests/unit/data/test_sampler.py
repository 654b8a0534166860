"""The sample order: pure in the sample number, fair to identities, alike for any number of workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from safa.config.training import HeadStage, JitterConfig
from safa.data.clip_store import ClipStore
from safa.data.sampler import (
    ClipTable,
    FrameCache,
    FrameSampler,
    PairSampler,
    SampleOrder,
    choose_frames,
    clip_table,
)

STILL = JitterConfig(brightness=0, contrast=0, saturation=0, hue=0)
PEOPLE = ("ann", "ben", "cat")
NAMES = [f"{person}#v{v}#000000#000009" for person in PEOPLE for v in range(2)]
CLIPS = ClipTable(np.arange(6), np.array([0, 2, 4, 6]))  # two clips a person


class CountingReader:
    """Frames whose pixels say which clip and frame they are; counts what was read."""

    def __init__(self, faceless: frozenset[int] = frozenset()) -> None:
        self.read: list[tuple[int, int]] = []
        self.landmarks_read = 0
        self._faceless = faceless

    def frames(self, clip: int, indices: Sequence[int]) -> list[np.ndarray]:
        self.read += [(clip, i) for i in indices]
        return [np.full((4, 6, 3), 20 * clip + i, np.uint8) for i in indices]

    def landmarks(self, clip: int, indices: Sequence[int]) -> np.ndarray:
        self.landmarks_read += len(indices)
        points = np.tile(np.arange(9, dtype=np.float32)[:, None, None], (1, 68, 2))
        points[list(self._faceless)] = np.nan
        return points[list(indices)]

    def has_face(self, clip: int) -> np.ndarray:
        return ~np.isin(np.arange(9), list(self._faceless))

    def clip_id(self, clip: int) -> str:
        return NAMES[clip]


def _pairs(seed: int = 3, reader: CountingReader | None = None, flip: float = 0.5) -> PairSampler:
    order = SampleOrder(CLIPS, seed, num_repeats=5)
    return PairSampler(order, reader or CountingReader(), STILL, flip)


def _person(clip: int) -> str:
    return PEOPLE[clip // 2]


def _frame_numbers(image: torch.Tensor) -> list[int]:
    return [round(float(frame[0, 0, 0]) * 255) % 20 for frame in image]


def test_every_identity_comes_up_equally_often_in_each_epoch() -> None:
    order = SampleOrder(CLIPS, seed=1, num_repeats=5)
    assert order.samples_per_epoch == 15
    for epoch in range(3):
        people = [_person(order.draw(15 * epoch + i).clip) for i in range(15)]
        assert Counter(people) == {"ann": 5, "ben": 5, "cat": 5}


def test_epochs_and_seeds_differ() -> None:
    first, second = SampleOrder(CLIPS, 1, 20), SampleOrder(CLIPS, 2, 20)
    people = [[_person(first.draw(i).clip) for i in range(start, start + 60)] for start in (0, 60)]
    assert people[0] != people[1]
    assert people[0] != [_person(second.draw(i).clip) for i in range(60)]


def test_both_clips_of_a_person_are_drawn() -> None:
    order = SampleOrder(CLIPS, 0, 30)
    assert {order.draw(i).clip for i in range(90)} == set(range(6))


def test_clips_are_grouped_by_person_whatever_the_order_of_ids(
    clip_row: Callable[..., dict[str, Any]], write_clips: Callable[..., Path], tmp_path: Path
) -> None:
    """Ids need not begin with the person: clips of one person may lie apart."""
    people = {"a": "zoe", "b": "ann", "c": "zoe", "d": "bob", "e": "ann"}
    rows = [
        clip_row(name, "train") | {"clip_id": name, "person_id": person} for name, person in people.items()
    ]
    store = ClipStore(write_clips(tmp_path, [*rows, clip_row("dan", "test")]))
    table = clip_table(store, "train")
    groups = [table.numbers[a:b].tolist() for a, b in pairwise(table.first)]
    assert [[store.clip_id(n) for n in group] for group in groups] == [["b", "e"], ["d"], ["a", "c"]]


def test_a_sample_depends_on_its_number_alone() -> None:
    """Any order of asking, any batch around it: the same sample."""
    straight = _pairs().batch(range(40))
    for n in (31, 2, 17):
        alone = _pairs().batch([n])
        assert alone.clip_ids == (straight.clip_ids[n],)
        torch.testing.assert_close(alone.source[0], straight.source[n], atol=0, rtol=0)
        torch.testing.assert_close(alone.driving_landmarks[0], straight.driving_landmarks[n], atol=0, rtol=0)


def test_pairs_are_ordered_and_reversed_by_the_time_flip() -> None:
    for flip, rising in ((0.0, True), (1.0, False)):
        batch = _pairs(flip=flip).batch(range(60))
        pairs = list(zip(_frame_numbers(batch.source), _frame_numbers(batch.driving), strict=True))
        assert all((a <= b) if rising else (a >= b) for a, b in pairs)
        assert any(a == b for a, b in pairs), "frames are drawn with replacement"
        assert len({frame for pair in pairs for frame in pair}) == 9


def test_landmarks_belong_to_their_frames() -> None:
    batch = _pairs().batch(range(30))
    assert _frame_numbers(batch.source) == batch.source_landmarks[:, 0, 0].tolist()
    assert _frame_numbers(batch.driving) == batch.driving_landmarks[:, 0, 0].tolist()


def test_only_the_two_frames_are_read() -> None:
    reader = CountingReader()
    _pairs(reader=reader).batch(range(8))
    assert len(reader.read) == reader.landmarks_read == 16


def test_frames_without_a_face_are_not_drawn() -> None:
    reader = CountingReader(faceless=frozenset({0, 1, 2, 5}))
    batch = _pairs(reader=reader).batch(range(60))
    assert set(_frame_numbers(batch.source)) <= {3, 4, 6, 7, 8}
    assert batch.source_landmarks.isfinite().all()


def test_a_clip_without_any_face_still_gives_frames() -> None:
    reader = CountingReader(faceless=frozenset(range(9)))
    batch = _pairs(reader=reader).batch(range(10))
    assert batch.source_landmarks.isnan().all()


def test_choose_frames_covers_all_candidates() -> None:
    has_face = np.array([True, True, False, True, True])
    rng = np.random.default_rng(0)
    assert {i for _ in range(100) for i in choose_frames(has_face, 2, rng)} == {0, 1, 3, 4}


def test_mirrored_frames_carry_their_landmarks() -> None:
    order = SampleOrder(CLIPS, 0, 5)
    plain = FrameSampler(order, CountingReader(), STILL, HeadStage(kind="head", mirror=0.0)).batch(range(20))
    mirrored = FrameSampler(order, CountingReader(), STILL, HeadStage(kind="head", mirror=1.0)).batch(
        range(20)
    )
    torch.testing.assert_close(mirrored.landmarks[..., 0], 5 - plain.landmarks[..., 0])
    torch.testing.assert_close(mirrored.landmarks[..., 1], plain.landmarks[..., 1])


def test_cache_reads_each_frame_once_and_changes_nothing() -> None:
    reader = CountingReader()
    order = SampleOrder(CLIPS, 3, 5)
    cached = PairSampler(order, FrameCache(reader, budget_mb=1), STILL, 0.5)
    plain = _pairs().batch(range(200))
    torch.testing.assert_close(cached.batch(range(200)).driving, plain.driving, atol=0, rtol=0)
    assert len(reader.read) == len(set(reader.read)) <= 54


def test_cache_stays_within_its_budget() -> None:
    big = np.zeros((300, 300, 3), np.uint8)  # 270,000 bytes: three fit into 1 MiB

    class Reader(CountingReader):
        def frames(self, clip: int, indices: Sequence[int]) -> list[np.ndarray]:
            self.read += [(clip, i) for i in indices]
            return [big for _ in indices]

    reader = Reader()
    cache = FrameCache(reader, budget_mb=1)
    for _ in range(2):
        assert len(cache.frames(0, [0, 1, 2, 3, 4, 0])) == 6
    assert len(reader.read) == 5 + 2


def test_no_clips_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no clips"):
        SampleOrder(ClipTable(np.empty(0, np.int64), np.zeros(1, np.int64)), 0, 1)
