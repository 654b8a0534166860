"""Full memory becomes one line that names the setting to lower; every other error stays what it was."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
import torch

from safa.config.training import TrainConfig
from safa.training.context import LocalContext
from safa.training.loop import fit
from safa.training.out_of_memory import WorkerOutOfMemoryError, explain_out_of_memory
from safa.training.stages import HeadTraining

MakeConfig = Callable[..., TrainConfig]


@pytest.mark.parametrize(
    ("error", "device"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore lines"),
            "the GPU's memory",
        ),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "this machine's memory"),
        (MemoryError(), "this machine's memory"),
    ],
)
def test_a_run_out_of_memory_says_what_to_lower(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, error: Exception, device: str
) -> None:
    def full(*args: object) -> None:
        raise error

    monkeypatch.setattr(HeadTraining, "step", full)
    config = make_config("head", {"data.batch_size": 6, "step.accumulate": 2})
    with pytest.raises(WorkerOutOfMemoryError) as caught:
        fit(config, LocalContext())
    line = str(caught.value)
    assert "\n" not in line
    assert f"data.batch_size 6: {device} is full" in line
    assert "Set data.batch_size to 3 and step.accumulate to 4" in line
    assert "Set step.bf16 to true." in line


def test_what_is_lowest_already_is_not_advised(make_config: MakeConfig) -> None:
    config = make_config("head", {"data.batch_size": 1, "data.cache_mb": 0, "step.bf16": True})
    with (
        pytest.raises(WorkerOutOfMemoryError, match=r"Choose a smaller model\.image_size\.$"),
        explain_out_of_memory(config),
    ):
        raise torch.OutOfMemoryError("full")


def test_workers_that_share_are_not_advised_to_share_less_than_one_each(make_config: MakeConfig) -> None:
    def said(total: int) -> str:
        changes = {"data.batch_size": None, "data.batch_total": total, "scale.num_workers": 3}
        config = make_config("head", changes)
        with pytest.raises(WorkerOutOfMemoryError) as caught, explain_out_of_memory(config, 3):
            raise torch.OutOfMemoryError("full")
        return str(caught.value)

    assert "Set data.batch_total to 3 and step.accumulate to 2" in said(6)
    assert "data.batch_total to" not in said(5)


def test_other_errors_pass(make_config: MakeConfig) -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), explain_out_of_memory(make_config("head")):
        raise RuntimeError("shapes differ")


def test_it_crosses_to_another_process() -> None:
    error = WorkerOutOfMemoryError("what", "where", "fix")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is WorkerOutOfMemoryError
    assert str(again) == str(error)
