"""The rules by which a comparison passes can fail, each at its own limit. Needs no reference tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import parity
import pytest
import torch
from parity_cases import gradients, rows
from parity_cases.borderline_pixels import Pixel, Toggle
from parity_cases.fill import fill, is_filled, value
from parity_cases.rows import GRADIENT_SLACK, Row
from torch import nn


def test_exact_is_relative_to_the_largest_reference() -> None:
    reference = np.array([0.0, 50.0])
    assert rows.exact("c", "t", reference + 4e-3, reference).passed
    assert not rows.exact("c", "t", reference + 6e-3, reference).passed
    small = np.array([0.0, 1e-3])  # below 1 the error counts as it is
    assert not rows.exact("c", "t", small + 2e-4, small).passed


def test_a_picture_may_be_wrong_at_single_pixels_only() -> None:
    reference = np.zeros((100, 100))
    one = reference.copy()
    one[0, 0] = 9e-4
    assert rows.picture("c", "t", one, reference).passed
    assert not rows.picture("c", "t", 10 * one, reference).passed
    assert not rows.picture("c", "t", reference + 2e-5, reference).passed  # everywhere a little: rms


@pytest.mark.parametrize("compare", [rows.exact, rows.equal, rows.picture, rows.levels])
def test_not_a_number_fails(compare: object) -> None:
    assert callable(compare)
    assert not compare("c", "t", np.array([np.nan, 0.0]), np.zeros(2)).passed


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shape"):
        rows.exact("c", "t", np.zeros((2, 1)), np.zeros(2))


def test_labels_may_flip_at_few_pixels() -> None:
    reference = np.zeros((256, 256), dtype=int)
    ours = reference.copy()
    ours[0, :3] = 1
    assert rows.labels("c", "t", ours, reference).passed
    ours[0, 3] = 1
    assert not rows.labels("c", "t", ours, reference).passed


def test_losses_are_relative_to_themselves() -> None:
    assert rows.loss("c", "t", 1.0002e-3, 1e-3).passed
    assert not rows.loss("c", "t", 1.0004e-3, 1e-3).passed


def test_gradient_norms_are_compared_by_median_and_maximum() -> None:
    truth = {"a": [1.0, 0, 1], "b": [2.0, 0, 1], "c": [3.0, 0, 1], "tiny": [1e-9, 0, 1], "none": None}
    noise = gradients.Noise(median=1e-3, maximum=0.05)
    room = 3.0 * 0.05 * GRADIENT_SLACK
    ours = {"a": torch.tensor([1.0]), "b": torch.tensor([2.0]), "c": torch.tensor([3 + 0.7 * room])}
    ours |= {"none": None}
    assert gradients.norms("c", "t", ours, truth, noise).passed
    assert not gradients.norms("c", "t", ours | {"c": torch.tensor([3 + 1.4 * room])}, truth, noise).passed
    twice = ours | {"b": torch.tensor([2.1]), "a": torch.tensor([1.1])}
    assert not gradients.norms("c", "t", twice, truth, noise).passed


def test_missing_and_additional_gradients_are_found() -> None:
    truth = {"a": [1.0, 0, 1], "b": None}
    one = torch.ones(1)
    assert gradients.has_same_gradients("c", "t", {"a": one, "b": None}, truth).passed
    assert not gradients.has_same_gradients("c", "t", {"a": one, "b": one}, truth).passed
    assert not gradients.has_same_gradients("c", "t", {"a": None, "b": None}, truth).passed


def test_fill_follows_the_name_alone() -> None:
    assert np.array_equal(value("final.weight", (3, 8, 7, 7), 0), value("final.weight", (3, 8, 7, 7), 0))
    assert not np.array_equal(value("final.weight", (3, 8, 7, 7), 0), value("final.weight", (3, 8, 7, 7), 1))
    assert value("x.running_var", (4,), 0).min() >= 1
    assert abs(value("jacobian.bias", (40,), 0).reshape(10, 4)[:, 0].mean() - 1) < 0.1
    assert not is_filled("x.num_batches_tracked")
    assert not is_filled("dense_motion_network.down_motion.weight")
    assert is_filled("cp.conv_head16.bn.weight")


def test_fill_keeps_what_the_rule_leaves_out() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3))
    fill(network, 0)
    assert network[0].num_batches_tracked == 0
    assert not torch.equal(network[0].weight, torch.ones(3))


@dataclass
class _Set:
    """What ``settle`` needs of a set of recordings: renders with three borderline pixels."""

    toggle: Toggle
    choices: list[int]


def _case(needed: int) -> Callable[[Any], Iterator[Row]]:
    """A row that passes once the pixels of ``needed`` are toggled; each of them makes the error smaller."""

    def case(golden: Any) -> Iterator[Row]:
        choice = golden.toggle.choice
        golden.choices.append(choice)
        if choice:
            golden.toggle.found = {0: [Pixel(0, row, 0, {}) for row in range(3)]}
        error = float((choice ^ needed).bit_count())
        yield replace(rows.exact("case", "tensor", np.array([error]), np.zeros(1)), behind_rasterizer=True)

    return case


@pytest.mark.parametrize(
    ("needed", "tried"),
    [(0b000, [0]), (0b010, [0, 1, 2]), (0b101, [0, 1, 2, 4, 5]), (0b1000, [0, 1, 2, 4])],
    ids=["nothing fails", "one pixel", "two pixels", "no pixel helps"],
)
def test_borderline_pixels_are_tried_one_by_one_and_then_together(needed: int, tried: list[int]) -> None:
    golden = _Set(Toggle(), [])
    case: Any = _case(needed)
    (row,) = parity.settle(golden, case, list(case(golden)))  # type: ignore[arg-type]
    assert golden.choices == tried
    assert row.passed == (needed != 0b1000)
    assert golden.toggle.choice == 0
