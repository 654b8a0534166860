from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from safa.tensor_tree import halves, map_tensors


@dataclass(frozen=True)
class Leaf:
    x: Tensor
    name: str


@dataclass(frozen=True)
class Tree:
    leaf: Leaf
    several: tuple[Tensor, ...]


TREE = Tree(Leaf(torch.arange(4.0), "a"), (torch.arange(4.0), torch.zeros(2, 3)))


def test_every_tensor_is_mapped_and_nothing_else() -> None:
    doubled = map_tensors(lambda tensor: 2 * tensor, TREE)
    assert doubled.leaf.x.tolist() == [0, 2, 4, 6]
    assert doubled.leaf.name == "a"
    assert doubled.several[0].tolist() == [0, 2, 4, 6]
    assert TREE.leaf.x.tolist() == [0, 1, 2, 3]


def test_halves_undo_stacking() -> None:
    first, second = halves(TREE)
    assert first.leaf.x.tolist() == [0, 1]
    assert second.leaf.x.tolist() == [2, 3]
    assert second.several[1].shape == (1, 3)
