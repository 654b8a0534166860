"""Tensors: views of storages, which lie beside a pickle or behind it.

Before version 1.6 torch wrote three small pickles (a magic number, a version, the machine's sizes), the
value, the names of its storages, and then for each of these its length and its bytes. It still does so for a
tensor inside another pickle.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import torch

from safa.unpickle.arrays import checked_shape
from safa.unpickle.work import CHANGED, Damaged, Forbidden, Work

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
TENSOR_WEIGHT = 600  # bytes that a tensor takes beside its numbers
STORAGE_WEIGHT = 600
LONGEST_STEP = 1 << 40  # of a dimension of one element, and start of an empty tensor: they mean nothing
_BLOCK = 1 << 20  # bytes
_LENGTH = 8  # bytes that say how many elements follow


@dataclass(frozen=True, slots=True)
class StorageName:
    """What a pickle says about numbers that lie outside of it."""

    dtype: torch.dtype
    key: str
    count: int

    @property
    def size(self) -> int:
        """Bytes of the numbers."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Storage:
    """The numbers that tensors are views of; no value a pickle may hold.

    Attributes:
        flat: all of them, one after the other.
        work: counts what views of it cost.
    """

    flat: torch.Tensor
    work: Work


FindStorage = Callable[[StorageName], Storage]
LoadPickle = Callable[[bytes, int, FindStorage], tuple[Any, int]]


def named_storage(name: object, dtype_of: Callable[[object], torch.dtype | None]) -> StorageName:
    """The storage that ``("storage", class, key, device, number of elements)`` names.

    Args:
        name: may have a sixth part, None, which old files use for a piece of another storage.
        dtype_of: the type of the elements of a storage class, None for anything else.

    Raises:
        Forbidden: it names something else.
    """
    if type(name) is tuple and 5 <= len(name) <= 6 and type(name[0]) is str and name[0] == "storage":
        dtype, key, count = dtype_of(name[1]), name[2], name[4]
        whole = type(count) is int and count >= 0 and all(part is None for part in name[5:])
        if dtype is not None and type(key) is str and whole:
            return StorageName(dtype, key, count)
    raise Forbidden("it asks for something kept outside of it")


class StorageTable:
    """The storages of one file by their keys, each made once.

    Args:
        size: bytes of the file; all storages together take no more.
        work: counts what they and views of them cost.
    """

    def __init__(self, size: int, work: Work) -> None:
        self._left, self._work = size, work
        self._by_key: dict[str, tuple[StorageName, Storage]] = {}

    def find(self, name: StorageName, fill: Callable[[torch.Tensor], None] = lambda flat: None) -> Storage:
        """The storage of that name.

        Args:
            fill: puts the numbers into a storage that was not named before.

        Raises:
            Damaged: it does not fit into the file, or was named before with another type or length.
            MemoryError: there is no room for it.
        """
        if name.key in self._by_key:
            known, storage = self._by_key[name.key]
            if known != name:
                raise Damaged("a storage of two types or lengths")
            return storage
        self._left -= name.size
        if self._left < 0:
            raise Damaged("it ends before the numbers of its tensors do")
        self._work.weigh(STORAGE_WEIGHT)
        storage = Storage(_room(name), self._work)
        fill(storage.flat)
        self._by_key[name.key] = name, storage
        return storage

    def filled_in_order(self, keys: object) -> list[Storage]:
        """The storages in the order of their keys.

        Raises:
            Damaged: these are not the keys that were named, each once.
        """
        if type(keys) is not list or not all(type(key) is str for key in keys):
            raise Damaged("tensors without their numbers")
        if len(keys) != len(self._by_key) or set(keys) != set(self._by_key):
            raise Damaged("tensors without their numbers")
        return [self._by_key[key][1] for key in keys]


def _room(name: StorageName) -> torch.Tensor:
    try:
        return torch.empty(name.count, dtype=name.dtype)
    except RuntimeError:  # torch's word for full memory
        raise MemoryError from None


def read_numbers(file: BinaryIO, flat: torch.Tensor, swap: bool = False, checksum: int = 0) -> None:
    """Fill a storage with the next bytes of a file; nothing is held twice.

    Args:
        swap: the file has the other byte order than this machine.
        checksum: CRC-32 of the bytes; 0 if the file has none.

    Raises:
        Damaged: the file ends too early, or its bytes are not those that were written.
    """
    if not flat.numel():
        return
    numbers = flat.view(torch.uint8).numpy()
    left, found = numbers.data, 0
    while left:
        count = file.readinto(left[:_BLOCK])  # type: ignore[attr-defined]
        if not count:
            raise Damaged("it ends before the numbers of its tensors do")
        if checksum:
            found = zlib.crc32(left[:count], found)  # while the bytes are in the cache of the CPU
        left = left[count:]
    if found != checksum:
        raise Damaged(CHANGED)
    if flat.dtype is torch.bool:  # a byte of 2 would be neither true nor false
        np.not_equal(numbers, 0, out=numbers.view(np.bool_))
    if swap:
        numbers.view(f"u{flat.dtype.itemsize}").byteswap(inplace=True)


def read_legacy(file: BinaryIO, head: bytes, size: int, load: LoadPickle, work: Work) -> Any:
    """The value in a file of the old layout.

    Args:
        file: the whole of it.
        head: its beginning, which holds all of its pickles.
        size: its length, bytes.
        load: reads the pickle at a place of the bytes, which may name storages; gives its value and where it
            ends.
        work: counts what storages and tensors cost.

    Raises:
        Damaged, Forbidden: the bytes are no such file.
        MemoryError: there is no room for its numbers.
    """
    table = StorageTable(size, work)
    at = 0
    for expected in (MAGIC, VERSION):
        number, at = load(head, at, table.find)
        if type(number) is not int or number != expected:
            raise Damaged("a pickle that is not in the layout of torch")
    machine, at = load(head, at, table.find)
    if type(machine) is not dict:
        raise Damaged("a pickle that is not in the layout of torch")
    value, at = load(head, at, table.find)
    keys, at = load(head, at, table.find)
    for storage in table.filled_in_order(keys):
        file.seek(at)
        length = file.read(_LENGTH)
        if len(length) < _LENGTH:
            raise Damaged("it ends before the numbers of its tensors do")
        if int.from_bytes(length, "little") != storage.flat.numel():
            raise Damaged("a storage of two lengths")
        read_numbers(file, storage.flat)  # little-endian, whatever wrote it
        at = file.tell()
    return value


def rebuilt_tensor(storage: object, offset: object, size: object, stride: object) -> torch.Tensor:
    """The tensor of a shape and of steps over a storage.

    Raises:
        Damaged: it would reach outside of the storage, or repeat its numbers.
    """
    if type(storage) is not Storage or type(offset) is not int or offset < 0:
        raise Damaged("a tensor without its numbers")
    sizes, strides = checked_shape(size), stride
    if type(strides) is not tuple or len(strides) != len(sizes):
        raise Damaged("a tensor of a shape that is none")
    if not all(type(step) is int and step >= 0 for step in strides):
        raise Damaged("a tensor of a shape that is none")
    held, count = storage.flat.numel(), math.prod(sizes)
    last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if count and last >= held:  # an empty tensor may start anywhere
        raise Damaged("a tensor that reaches outside of its numbers")
    if count and _repeats(sizes, strides):
        raise Damaged("a tensor that repeats its numbers")
    storage.work.weigh(TENSOR_WEIGHT + count * storage.flat.dtype.itemsize)  # as many may show one storage
    steps = [min(step, LONGEST_STEP) for step in strides]
    return storage.flat.as_strided(sizes, steps, min(offset, LONGEST_STEP))


def _repeats(sizes: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether two places of a tensor could be one number: a step within what the smaller steps cover."""
    covered = 0
    for step, n in sorted((step, n) for n, step in zip(sizes, strides, strict=True) if n > 1):
        if step <= covered:
            return True
        covered += (n - 1) * step
    return False
