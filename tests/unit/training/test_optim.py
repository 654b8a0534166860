"""Learning rates, clipping and the moving average of weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from safa.config.training import ScheduleConfig, StepConfig
from safa.training.optim import (
    EMA,
    clip_gradients,
    make_adam,
    scale_learning_rates,
)
from safa.weights import trained_parameters


def test_milestones_in_epochs_follow_the_samples() -> None:
    schedule = ScheduleConfig(unit="epochs", length=50, milestones=(15, 30, 45))
    per_epoch = 1000
    factors = [schedule.lr_factor(0, epoch * per_epoch, per_epoch) for epoch in (0, 14, 15, 30, 44, 45)]
    assert factors == pytest.approx([1, 1, 0.1, 0.01, 0.01, 0.001])
    assert schedule.lr_factor(0, 15 * per_epoch - 1, per_epoch) == 1
    assert schedule.total_steps(per_epoch, samples_per_step=64) == 782  # 50,000 / 64, rounded up


def test_a_run_that_changes_its_workers_sees_as_many_samples() -> None:
    schedule = ScheduleConfig(unit="epochs", length=10)
    assert schedule.total_steps(100, samples_per_step=8) == 125
    assert schedule.total_steps(100, 8, done=50, seen=400) == 125, "nothing changed"
    assert schedule.total_steps(100, 16, done=50, seen=400) == 50 + 38, "600 samples are left, 16 a step"
    assert schedule.total_steps(100, 16, done=130, seen=1040) == 130, "done already"


def test_milestones_in_steps() -> None:
    schedule = ScheduleConfig(unit="steps", length=100, milestones=(60, 90), gamma=0.5)
    assert [schedule.lr_factor(s, 10**9, 1) for s in (0, 59, 60, 90)] == [1, 1, 0.5, 0.25]
    assert schedule.total_steps(7, 3) == 100


def test_cosine_and_warm_up() -> None:
    schedule = ScheduleConfig(unit="steps", length=100, cosine=True, warmup_steps=4)
    factors = [schedule.lr_factor(step, 0, 1) for step in (0, 3, 4, 50, 100)]
    assert factors == pytest.approx([0.2, 0.8 * 0.99778, 0.99606, 0.5, 0], abs=1e-4)
    epochs = ScheduleConfig(unit="epochs", length=10, cosine=True)
    assert epochs.lr_factor(10**6, 5 * 300, 300) == pytest.approx(0.5)


def test_one_way_to_lower_the_rate() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        ScheduleConfig(unit="steps", length=10, cosine=True, milestones=(5,))


@pytest.mark.parametrize("milestones", [(3, 2), (2, 2), (0,)])
def test_milestones_must_rise(milestones: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="rising positive"):
        ScheduleConfig(unit="steps", length=5, milestones=milestones)


def test_factor_scales_each_networks_own_rate() -> None:
    adams = {
        "slow": make_adam(nn.Linear(2, 2), 1e-4, (0.5, 0.999), StepConfig()),
        "fast": make_adam(nn.Linear(2, 2), 1e-3, (0.9, 0.999), StepConfig()),
    }
    for _ in range(2):  # not compounded
        scale_learning_rates(adams, 0.1)
    assert [a.param_groups[0]["lr"] for a in adams.values()] == pytest.approx([1e-5, 1e-4])


def test_frozen_parameters_are_left_out() -> None:
    network = nn.Linear(2, 2)
    network.bias.requires_grad_(False)
    assert list(trained_parameters(network)) == ["weight"]


def test_clipping_bounds_the_norm_and_only_then() -> None:
    network = nn.Linear(3, 1, bias=False)
    network.weight.grad = torch.tensor([[3.0, 4.0, 0.0]])
    clip_gradients(network, None)
    clip_gradients(network, 10.0)
    assert network.weight.grad.norm() == 5
    clip_gradients(network, 1.0)
    assert float(network.weight.grad.norm()) == pytest.approx(1, rel=1e-4)


def test_ema_is_the_recursion_written_out() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ema = EMA(model, decay=0.9)
    wanted = model[0].weight.detach().clone()
    for step in range(1, 40):
        with torch.no_grad():
            model[0].weight.normal_()
            model[1].running_mean.normal_()
        ema.update(step)
        keep = min(0.9, (1 + step) / (10 + step))
        wanted = keep * wanted + (1 - keep) * model[0].weight.detach()
    torch.testing.assert_close(ema.model.state_dict()["0.weight"], wanted)
    torch.testing.assert_close(ema.model.state_dict()["1.running_mean"], model[1].running_mean)
    assert not any(p.requires_grad for p in ema.model.parameters())
    assert not ema.model.training
