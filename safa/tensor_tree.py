"""Map a function over the tensors of nested dataclasses, in which parts of the model pass results."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

Record = TypeVar("Record")


def map_tensors(function: Callable[[Tensor], Tensor], record: Record) -> Record:
    """Copy a dataclass with ``function`` applied to every tensor in it, nested ones and tuples included.

    Fields that are neither stay as they are.
    """
    mapped: Record = _map(function, record)
    return mapped


def _map(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(_map(function, item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return dataclasses.replace(value, **{f.name: _map(function, getattr(value, f.name)) for f in fields})
    return value


def halves(stacked: Record) -> tuple[Record, Record]:
    """Undo the stacking of two equal batches along the first dimension."""
    return (
        map_tensors(lambda tensor: tensor.chunk(2)[0], stacked),  # (2B, ...) -> the first (B, ...)
        map_tensors(lambda tensor: tensor.chunk(2)[1], stacked),  # (2B, ...) -> the second (B, ...)
    )
