"""The names that a pickle of data may use, and what each of them makes here.

None of them is imported: a name is a symbol, and what it makes is made by this package.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Protocol

import numpy as np
import torch

from safa.unpickle.arrays import (
    ArrayDraft,
    ChumpyArray,
    DtypeDraft,
    InertRecord,
    SparseColumns,
    SparseRows,
    SparseTriples,
    array_from_bytes,
    draft_dtype,
    scalar,
)
from safa.unpickle.tensors import STORAGES, FindStorage, Storage, read_legacy, rebuilt_tensor
from safa.unpickle.work import Damaged, Forbidden, Work, check_key, shown

RECORD_WEIGHT = 250
ENTRY_WEIGHT = 100  # of a dictionary
MEMBER_WEIGHT = 60  # of a set


class Reader(Protocol):
    """What a symbol may use of the interpreter."""

    work: Work

    def load_inner(self, data: bytes, start: int, find: FindStorage) -> tuple[Any, int]:
        """The value of a pickle inside this one, and where it ends; ``find`` gives the storages it names."""


Args = tuple[Any, ...]
Make = Callable[[Reader, Args], Any]


@dataclass(frozen=True)
class Symbol:
    """A name out of a pickle.

    Attributes:
        title: module and name, for errors.
        make: what calling it gives; None if it must not be called.
        record: the class of the record that stands in for it, if it is such a class.
        storage: the type of the elements, if it is a class of torch's storages.
    """

    title: str
    make: Make | None = None
    record: type[InertRecord] | None = None
    storage: torch.dtype | None = None


def find_symbol(module: str, name: str) -> Symbol:
    """The symbol of that name.

    Raises:
        Forbidden: it is not on the list.
    """
    symbol = _SYMBOLS.get((module, name))
    if symbol is None:
        raise Forbidden(f"it asks for {shown(module)}.{shown(name)}, which is not plain data")
    return symbol


def known_names() -> list[tuple[str, str]]:
    """Module and name of every symbol."""
    return sorted(_SYMBOLS)


def called(symbol: object, args: object, reader: Reader) -> Any:
    """What a symbol makes of its arguments.

    Raises:
        Forbidden: it is nothing that may be called.
        Damaged: the arguments are not what it takes.
    """
    if type(symbol) is not Symbol or symbol.make is None:
        raise Forbidden(f"it calls {described(symbol)}, which is not plain data")
    if type(args) is not tuple:
        raise Damaged("a call without arguments")
    return symbol.make(reader, args)


def new_record(symbol: object, args: object, reader: Reader) -> InertRecord:
    """An empty record of a class that is not imported.

    Raises:
        Forbidden: it is no such class, or takes arguments.
    """
    if type(symbol) is not Symbol or symbol.record is None or type(args) is not tuple or args:
        raise Forbidden(f"it makes an object of {described(symbol)}, which is not plain data")
    reader.work.weigh(RECORD_WEIGHT)
    return symbol.record()


def described(value: object) -> str:
    """A value for an error: a symbol's name, otherwise its kind."""
    if type(value) is Symbol:
        return value.title
    if isinstance(value, ArrayDraft):
        return "a half-made array"
    if isinstance(value, np.dtype | DtypeDraft):
        return "the type of an array"
    return type(value).__name__


def _taken(args: Args, fewest: int, most: int) -> Args:
    """The arguments, padded with None."""
    if not fewest <= len(args) <= most:
        raise Damaged(f"a call with {len(args)} arguments")
    return args + (None,) * (most - len(args))


def _reconstruct(reader: Reader, args: Args) -> ArrayDraft:
    kind, _, _ = _taken(args, 3, 3)
    if kind is not _NDARRAY:
        raise Forbidden(f"it makes an array of {described(kind)}, which is not plain data")
    reader.work.weigh(ENTRY_WEIGHT)
    return ArrayDraft()


def _from_buffer(reader: Reader, args: Args) -> np.ndarray[Any, Any]:
    data, dtype, shape, order, axes = _taken(args, 4, 5)
    if type(data) not in (bytes, bytearray) or not isinstance(dtype, np.dtype):
        raise Damaged("an array without bytes")
    if type(order) is not str or order not in ("C", "F", "K"):
        raise Damaged("an array in an order that is none")
    array = array_from_bytes(shape, dtype, data, reader.work, order == "F")
    if order != "K" or axes is None:
        return array
    if type(axes) is not tuple or any(type(n) is not int for n in axes):
        raise Damaged("an array in an order that is none")
    if sorted(axes) != list(range(array.ndim)):
        raise Damaged("an array in an order that is none")
    return array.transpose(axes)


def _scalar(reader: Reader, args: Args) -> np.generic[Any]:
    dtype, data = _taken(args, 2, 2)
    return scalar(dtype, data, reader.work)


def _dtype(reader: Reader, args: Args) -> Any:
    code, *_ = _taken(args, 1, 3)  # the others say how to copy, which means nothing for plain numbers
    reader.work.weigh(ENTRY_WEIGHT)
    return draft_dtype(code)


def _encode(reader: Reader, args: Args) -> bytes:
    """Bytes as Python 3 writes them into protocols 0 to 2."""
    text, codec = _taken(args, 1, 2)
    if type(text) is not str or codec not in ("latin1", "latin-1"):
        raise Forbidden("it asks for a codec that is not latin-1")
    reader.work.weigh(len(text))
    return text.encode("latin1")


def _empty_bytes(reader: Reader, args: Args) -> bytes:
    _taken(args, 0, 0)
    return b""


def _set(reader: Reader, args: Args) -> set[Any]:
    (members,) = _taken(args, 0, 1)
    members = [] if members is None else members
    if type(members) is not list:
        raise Damaged("a set that is not made of a list")
    reader.work.weigh(216 + MEMBER_WEIGHT * len(members))
    for member in members:
        check_key(member)
    return set(members)


def _ordered_dict(reader: Reader, args: Args) -> OrderedDict[Any, Any]:
    (pairs,) = _taken(args, 0, 1)
    pairs = [] if pairs is None else pairs
    if type(pairs) is not list:
        raise Damaged("a dictionary that is not made of a list")
    reader.work.weigh(500 + 2 * ENTRY_WEIGHT * len(pairs))
    made: OrderedDict[Any, Any] = OrderedDict()
    for pair in pairs:
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise Damaged("a dictionary that is not made of pairs")
        check_key(pair[0])
        made[pair[0]] = pair[1]
    return made


def _reconstructor(reader: Reader, args: Args) -> InertRecord:
    """``copy_reg._reconstructor(class, object, None)``: an empty object in protocols 0 and 1."""
    kind, base, state = _taken(args, 3, 3)
    if base is not _OBJECT or state is not None:
        raise Forbidden(f"it makes an object of {described(base)}, which is not plain data")
    return new_record(kind, (), reader)


def _load_from_bytes(reader: Reader, args: Args) -> Storage:
    (data,) = _taken(args, 1, 1)
    if type(data) is not bytes:
        raise Damaged("a tensor without bytes")
    reader.work.weigh(len(data))
    value = read_legacy(BytesIO(data), data, len(data), reader.load_inner, reader.work)
    if type(value) is not Storage:
        raise Damaged("a tensor without its numbers")
    return value


def _rebuild_tensor(reader: Reader, args: Args) -> torch.Tensor:
    # Gradients and hooks are left behind. The last argument can say that numbers are to be negated.
    storage, offset, size, stride, _, _, settings = _taken(args, 4, 7)
    if settings is not None and (type(settings) is not dict or settings):
        raise Forbidden("it holds a tensor with settings of its own")
    return rebuilt_tensor(storage, offset, size, stride)


def _rebuild_parameter(reader: Reader, args: Args) -> torch.Tensor:
    tensor, _, _ = _taken(args, 3, 3)
    if type(tensor) is not torch.Tensor:
        raise Damaged("a parameter that is no tensor")
    return tensor


def _size(reader: Reader, args: Args) -> tuple[Any, ...]:
    (sizes,) = _taken(args, 1, 1)
    if type(sizes) is not tuple or not all(type(n) is int for n in sizes):
        raise Damaged("a shape that is none")
    return sizes


_NDARRAY = Symbol("numpy.ndarray")
_OBJECT = Symbol("builtins.object")

_CALLED: dict[tuple[str, str], Make] = {
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch", "Size"): _size,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,  # before version 0.4
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): _load_from_bytes,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    **{(module, "set"): _set for module in ("builtins", "__builtin__")},
    **{(module, "bytes"): _empty_bytes for module in ("builtins", "__builtin__")},
    **{(module, "_reconstructor"): _reconstructor for module in ("copyreg", "copy_reg")},
}
_SPARSE: dict[str, type[InertRecord]] = {"csc": SparseColumns, "csr": SparseRows, "coo": SparseTriples}
_RECORDS: dict[tuple[str, str], type[InertRecord]] = {
    ("chumpy.ch", "Ch"): ChumpyArray,
    ("chumpy", "Ch"): ChumpyArray,
    **{
        (f"scipy.sparse.{private}{short}", f"{short}_matrix"): kind
        for short, kind in _SPARSE.items()
        for private in ("", "_")
    },
}
_SYMBOLS: dict[tuple[str, str], Symbol] = {
    ("numpy", "ndarray"): _NDARRAY,
    **{(module, "object"): _OBJECT for module in ("builtins", "__builtin__")},
    **{names: Symbol(".".join(names), make=make) for names, make in _CALLED.items()},
    **{names: Symbol(".".join(names), record=record) for names, record in _RECORDS.items()},
    **{("torch", name): Symbol(f"torch.{name}", storage=dtype) for name, dtype in STORAGES.items()},
}
