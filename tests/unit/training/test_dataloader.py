"""Batches for the loop: shares of workers, continuing in the middle, loader processes."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from safa.config.training import TrainConfig
from safa.data.clip_store import ClipStore
from safa.data.sampler import PairBatch
from safa.errors import ClipError, UserError
from safa.training.context import LocalContext
from safa.training.dataloader import TrainingDataLoader

MakeConfig = Callable[..., TrainConfig]


class Rank(LocalContext):
    """A worker of a larger group, as far as the loader can see."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__()
        self.rank, self.world_size = rank, world_size


def _sources(config: TrainConfig, context: LocalContext, first: int, steps: int) -> list[torch.Tensor]:
    batches = list(TrainingDataLoader(config, context).batches(first, steps))
    assert all(isinstance(batch, PairBatch) for batch in batches)
    return [batch.source for batch in batches]  # type: ignore[union-attr]


def test_two_workers_share_what_one_with_the_double_batch_sees(make_config: MakeConfig) -> None:
    alone = _sources(make_config("full", {"data.batch_size": 4}), LocalContext(), 0, 3)
    half = make_config("full")
    shares = [_sources(half, Rank(rank, 2), 0, 3) for rank in (0, 1)]
    for whole, *parts in zip(alone, *shares, strict=True):
        torch.testing.assert_close(torch.cat(parts), whole, atol=0, rtol=0)


def test_what_cannot_be_shared_evenly_is_seen_all_the_same(make_config: MakeConfig) -> None:
    total = {"data.batch_size": None, "data.batch_total": 5}
    config = make_config("full", total)
    alone = _sources(config, LocalContext(), 0, 2)
    shares = [_sources(config, Rank(rank, 3), 0, 2) for rank in range(3)]
    assert [len(share[0]) for share in shares] == [2, 2, 1]
    for whole, *parts in zip(alone, *shares, strict=True):
        torch.testing.assert_close(torch.cat(parts), whole, atol=0, rtol=0)
    assert {TrainingDataLoader(config, Rank(rank, 3)).samples_per_step for rank in range(3)} == {5}
    assert make_config("full", {**total, "scale.num_workers": 5}).data.batches_of(5) == (1,) * 5
    with pytest.raises(UserError, match=r"6 workers .scale.num_workers. cannot share data.batch_total 5"):
        make_config("full", {**total, "scale.num_workers": 6})


def test_accumulation_splits_a_step_into_passes(make_config: MakeConfig) -> None:
    whole = _sources(make_config("full", {"data.batch_size": 6}), LocalContext(), 0, 2)
    config = make_config("full", {"step.accumulate": 3})
    passes = _sources(config, LocalContext(), 0, 2)
    assert len(passes) == 6
    torch.testing.assert_close(torch.cat(passes), torch.cat(whole), atol=0, rtol=0)
    assert TrainingDataLoader(config, LocalContext()).samples_per_step == 6


def test_resuming_takes_the_samples_that_come_next(make_config: MakeConfig) -> None:
    config = make_config("full")
    through = _sources(config, LocalContext(), 0, 5)
    later = _sources(config, LocalContext(), 3 * 2, 2)
    torch.testing.assert_close(torch.cat(later), torch.cat(through[3:]), atol=0, rtol=0)


@pytest.mark.slow
def test_loader_processes_change_nothing(make_config: MakeConfig) -> None:
    here = _sources(make_config("full"), LocalContext(), 0, 4)
    elsewhere = _sources(make_config("full", {"data.loader_workers": 2}), LocalContext(), 0, 4)
    torch.testing.assert_close(elsewhere, here, atol=0, rtol=0)


def test_held_out_clips_are_shared_among_workers(make_config: MakeConfig) -> None:
    config = make_config("full")
    counts = [len(TrainingDataLoader(config, Rank(rank, 2)).held_out) for rank in (0, 1)]
    assert counts == [1, 0]
    (clip,) = TrainingDataLoader(config, LocalContext()).held_out
    assert clip.source.shape == (1, 3, 32, 32)
    assert clip.driving.shape == (2, 3, 32, 32)
    assert clip.driving_landmarks.shape == (2, 68, 2)


def _spoil(config: TrainConfig, what: str) -> None:
    """Damage every stored frame of the data set, its size included."""
    folder = Path(str(config.data.clips))
    (shard,) = (folder / "shards").iterdir()
    store, data = ClipStore(folder), bytearray(shard.read_bytes())
    for clip in store.clips():
        for index in range(clip.n_frames):
            at, length = store.image_range(clip.number, index)
            if what == "picture":
                data[at + 40 : at + length] = bytes(length - 40)
            elif what == "size":
                data[at : at + length] = _padded(length)
            elif what == "landmarks":
                begin = store.landmarks_at(clip.number, index)
                data[begin : begin + 4] = b"\x7f\x7f\x7f\x7f"
    shard.write_bytes(data[:20] if what == "cut" else data)


def _padded(length: int) -> bytes:
    """A good PNG of another size in so many bytes; what follows its end is not read."""
    file = io.BytesIO()
    Image.new("RGB", (7, 7)).save(file, "png")
    return file.getvalue().ljust(length, b"\0")


@pytest.fixture
def spoiled(make_config: MakeConfig, tiny_clips: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """``spoiled("cut", {...})``: settings of a training on a damaged copy of the data set."""

    def make(what: str, changes: dict[str, object]) -> TrainConfig:
        folder = tmp_path / "damaged"
        shutil.copytree(tiny_clips, folder)
        config = make_config("full", {"data.clips": str(folder), **changes})
        _spoil(config, what)
        return config

    return make


@pytest.mark.parametrize("what", ["picture", "size", "landmarks", "cut"])
def test_a_damaged_stored_frame_ends_training_in_one_line(
    spoiled: Callable[..., TrainConfig], make_config: MakeConfig, what: str
) -> None:
    config = spoiled(what, {"validate_on": None})
    line = r"damaged: damaged \([^\n]*, frame \d+: [^\n]*\)\. Run `safa dataset verify`\.$"
    batches = TrainingDataLoader(config, LocalContext()).batches(0, 2)
    with pytest.raises(UserError, match=line):
        list(batches)
    store = ClipStore(config.data.clips)
    with pytest.raises(ClipError, match="frame 0"):
        (store.landmarks if what == "landmarks" else store.frames)(0, [0])
    with pytest.raises(UserError, match=line):  # the held-out clips, too
        TrainingDataLoader(make_config("full", {"data.clips": str(config.data.clips)}), LocalContext())


@pytest.mark.slow
def test_a_loader_process_hands_damage_on_as_one_line(spoiled: Callable[..., TrainConfig]) -> None:
    config = spoiled("picture", {"data.loader_workers": 1, "validate_on": None})
    with pytest.raises(UserError, match=r"^[^\n]*damaged \([^\n]*$"):
        list(TrainingDataLoader(config, LocalContext()).batches(0, 2))
