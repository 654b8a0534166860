"""The sample order: pure in the sample number, fair to identities, alike for any number of workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from safa.config.training import HeadStage, JitterConfig
from safa.data.sampler import ClipRef, FrameCache, FrameSampler, PairSampler, SampleOrder, choose_frames

STILL = JitterConfig(brightness=0, contrast=0, saturation=0, hue=0)
CLIPS = [ClipRef(f"{p}#v{v}#000000#000009", p, 9) for p in ("ann", "ben", "cat") for v in range(2)]


class CountingReader:
    """Frames whose pixels say which clip and frame they are; counts what was read."""

    def __init__(self, faceless: frozenset[int] = frozenset()) -> None:
        self.read: list[tuple[str, int]] = []
        self.landmark_reads = 0
        self._faceless = faceless

    def frames(self, clip_id: str, indices: Sequence[int]) -> list[np.ndarray]:
        self.read += [(clip_id, i) for i in indices]
        number = next(n for n, clip in enumerate(CLIPS) if clip.clip_id == clip_id)
        return [np.full((4, 6, 3), 20 * number + i, np.uint8) for i in indices]

    def landmarks(self, clip_id: str) -> np.ndarray:
        self.landmark_reads += 1
        points = np.tile(np.arange(9, dtype=np.float32)[:, None, None], (1, 68, 2))
        points[list(self._faceless)] = np.nan
        return points


def _pairs(seed: int = 3, reader: CountingReader | None = None, flip: float = 0.5) -> PairSampler:
    order = SampleOrder(CLIPS, seed, num_repeats=5)
    return PairSampler(order, reader or CountingReader(), STILL, flip)


def _frame_numbers(image: torch.Tensor) -> list[int]:
    return [round(float(frame[0, 0, 0]) * 255) % 20 for frame in image]


def test_every_identity_comes_up_equally_often_in_each_epoch() -> None:
    order = SampleOrder(CLIPS, seed=1, num_repeats=5)
    assert order.samples_per_epoch == 15
    for epoch in range(3):
        people = [order.draw(15 * epoch + i).clip.person for i in range(15)]
        assert Counter(people) == {"ann": 5, "ben": 5, "cat": 5}


def test_epochs_and_seeds_differ() -> None:
    first, second = SampleOrder(CLIPS, 1, 20), SampleOrder(CLIPS, 2, 20)
    people = [[first.draw(i).clip.person for i in range(start, start + 60)] for start in (0, 60)]
    assert people[0] != people[1]
    assert people[0] != [second.draw(i).clip.person for i in range(60)]


def test_both_clips_of_a_person_are_drawn() -> None:
    order = SampleOrder(CLIPS, 0, 30)
    assert {order.draw(i).clip.clip_id for i in range(90)} == {clip.clip_id for clip in CLIPS}


def test_order_of_the_clip_list_does_not_matter() -> None:
    forward, backward = SampleOrder(CLIPS, 0, 4), SampleOrder(CLIPS[::-1], 0, 4)
    assert [forward.draw(i).clip for i in range(30)] == [backward.draw(i).clip for i in range(30)]


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
    assert len(reader.read) == 16


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
    landmarks = np.zeros((5, 68, 2), np.float32)
    landmarks[2, 7] = np.nan  # one missing point: no face
    rng = np.random.default_rng(0)
    assert {i for _ in range(100) for i in choose_frames(landmarks, 2, rng)} == {0, 1, 3, 4}


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
    assert reader.landmark_reads == len(CLIPS)


def test_cache_stays_within_its_budget() -> None:
    big = np.zeros((300, 300, 3), np.uint8)  # 270,000 bytes: three fit into 1 MiB

    class Reader(CountingReader):
        def frames(self, clip_id: str, indices: Sequence[int]) -> list[np.ndarray]:
            self.read += [(clip_id, i) for i in indices]
            return [big for _ in indices]

    reader = Reader()
    cache = FrameCache(reader, budget_mb=1)
    for _ in range(2):
        assert len(cache.frames("a", [0, 1, 2, 3, 4, 0])) == 6
    assert len(reader.read) == 5 + 2


def test_no_clips_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no clips"):
        SampleOrder([], 0, 1)
