"""Tensors inside pickles: torch keeps the numbers of one as bytes in the layout of its old files.

Such a file is four small pickles (a magic number, a version, the machine's sizes, the storage's name), a
fifth with the names of the storages, and then their lengths and bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from safa.unpickle.arrays import MOST_DIMENSIONS, array_from_bytes, checked_shape
from safa.unpickle.work import Damaged, Forbidden, Work

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
STORAGES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_LENGTH = 8  # bytes that say how many elements follow


@dataclass(frozen=True, slots=True)
class StorageName:
    """What a pickle says about numbers that lie behind it."""

    dtype: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class Storage:
    """The numbers of a tensor, as bytes; no value a pickle may hold."""

    dtype: np.dtype[Any]
    data: bytes


def named_storage(name: object, dtype_of: Callable[[object], str | None]) -> StorageName:
    """The storage that ``("storage", class, key, device, number of elements, None)`` names.

    Args:
        dtype_of: numpy's name for the elements of a storage class, None for anything else.

    Raises:
        Forbidden: it names something else.
    """
    if type(name) is tuple and len(name) == 6 and type(name[0]) is str and name[0] == "storage":
        dtype, key, count, view = dtype_of(name[1]), name[2], name[4], name[5]
        if dtype is not None and type(key) is str and type(count) is int and view is None:
            return StorageName(dtype, key, count)
    raise Forbidden("it asks for something kept outside of it")


def read_storage(data: object, load: Callable[[bytes, int], tuple[Any, int]]) -> Storage:
    """The storage in the bytes of an old file of torch's.

    Args:
        data: the whole of it.
        load: reads the pickle at a place of the bytes; gives its value and where it ends.

    Raises:
        Damaged, Forbidden: the bytes are no such file.
    """
    if type(data) is not bytes:
        raise Damaged("a tensor without bytes")
    parts: list[Any] = []
    at = 0
    for _ in range(5):
        part, at = load(data, at)
        parts.append(part)
    magic, version, machine, name, keys = parts
    known = type(magic) is int and magic == MAGIC and type(version) is int and version == VERSION
    if not known or type(machine) is not dict or machine.get("little_endian") is not True:
        raise Damaged("a tensor that is not in the layout of torch")
    if type(name) is not StorageName or type(keys) is not list or keys != [name.key]:
        raise Damaged("a tensor without its numbers")
    dtype = np.dtype(name.dtype)
    length, content = data[at : at + _LENGTH], data[at + _LENGTH :]
    whole = len(length) == _LENGTH and int.from_bytes(length, "little") == name.count
    if not whole or len(content) != name.count * dtype.itemsize:
        raise Damaged("a tensor without all of its numbers")
    return Storage(dtype, content)


def rebuilt_tensor(storage: object, offset: object, size: object, stride: object, work: Work) -> torch.Tensor:
    """The tensor of a shape over a storage, as a copy in row-major order.

    Raises:
        Damaged: it would reach outside of the storage, or repeat its numbers.
    """
    if type(storage) is not Storage or type(offset) is not int or offset < 0:
        raise Damaged("a tensor without its numbers")
    sizes, strides = checked_shape(size), stride
    if type(strides) is not tuple or len(strides) != len(sizes) or len(sizes) > MOST_DIMENSIONS:
        raise Damaged("a tensor of a shape that is none")
    if not all(type(step) is int and step >= 0 for step in strides):
        raise Damaged("a tensor of a shape that is none")
    held = len(storage.data) // storage.dtype.itemsize
    count = int(np.prod(sizes, dtype=object)) if sizes else 1
    last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if count > held or (count and last >= held):
        raise Damaged("a tensor that reaches outside of its numbers")
    if not count:
        return torch.from_numpy(np.empty(sizes, storage.dtype))
    flat = torch.from_numpy(array_from_bytes((held,), storage.dtype, storage.data, work))
    steps = [step if n > 1 else 1 for n, step in zip(sizes, strides, strict=True)]
    return flat.as_strided(sizes, steps, offset).clone(memory_format=torch.contiguous_format)
