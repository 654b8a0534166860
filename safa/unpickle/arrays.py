"""Arrays out of the bytes of a pickle, and inert records in place of classes that are not imported.

numpy's own constructors take any dtype and any buffer, which lets a file turn its bytes into pointers. The
ones here take plain numbers and strings, and copy from exactly as many bytes as the shape asks for.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from safa.unpickle.work import Damaged, Forbidden, Work, shown

Array = NDArray[Any]
NUMBERS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
BYTE_ORDERS = ("<", ">", "|", "=")
MOST_CHARACTERS = 1 << 16  # of one string in an array
MOST_DIMENSIONS = 32  # what every numpy can hold
MOST_EMPTY = 1 << 20  # product of the other dimensions of an array without elements
ARRAY_WEIGHT = 128  # bytes that an array takes beside its elements
LARGEST_CODE_POINT = 0x10FFFF


class DtypeDraft:
    """A dtype whose byte order is still to come: pickle makes it first and sets its state afterwards."""

    __slots__ = ("code", "result")

    def __init__(self, code: str) -> None:
        self.code = code
        self.result: np.dtype[Any] | None = None


class ArrayDraft:
    """An array whose shape and bytes are still to come."""

    __slots__ = ("result",)

    def __init__(self) -> None:
        self.result: Array | None = None


def draft_dtype(code: object) -> DtypeDraft:
    """The dtype of a code such as ``f8``, ``U5`` or ``O8``.

    Raises:
        Forbidden: a structured dtype, a date, or anything but numbers, strings and objects.
    """
    if type(code) is str and (code in NUMBERS or code in ("O", "O8", "O4")):
        return DtypeDraft(code[0] if code[0] == "O" else code)
    string = re.fullmatch(r"[SU]([0-9]{1,5})?", code) if type(code) is str else None
    if not string or int(string[1] or 0) > MOST_CHARACTERS:
        raise Forbidden(f"it asks for an array of {shown(str(code))}, which is neither numbers nor strings")
    return DtypeDraft(f"{string[0][0]}{int(string[1] or 0)}")


def finish_dtype(draft: DtypeDraft, state: object) -> np.dtype[Any]:
    """Set a draft's byte order, the only part of the state that a plain dtype has.

    Args:
        state: ``(3, order, None, None, None, size, alignment, flags)``; size -1 for numbers.

    Raises:
        Forbidden: fields, a shape of its own, metadata, or another size than the code says.
    """
    if type(state) is not tuple or len(state) != 8 or any(part is not None for part in state[2:5]):
        raise Forbidden(f"it changes what an array of {draft.code} is made of")
    version, order, size, kind = state[0], state[1], state[5], draft.code[0]
    if type(version) is not int or version != 3 or type(order) is not str or order not in BYTE_ORDERS:
        raise Damaged("an array of elements without a byte order")
    made = np.dtype(object) if kind == "O" else np.dtype(draft.code).newbyteorder(order)  # type: ignore[arg-type]
    if type(size) is not int or size != (made.itemsize if kind in "SU" else -1):
        raise Forbidden(f"it gives an array of {draft.code} elements of another size")
    return made.newbyteorder("=") if made.isnative else made


def checked_shape(shape: object) -> tuple[int, ...]:
    """A shape as the file gives it, if it is one.

    Raises:
        Damaged: no tuple of a few whole numbers from 0 on.
    """
    whole = type(shape) is tuple and all(type(n) is int and n >= 0 for n in shape)
    if type(shape) is not tuple or not whole or len(shape) > MOST_DIMENSIONS:
        raise Damaged("an array of a shape that is none")
    if math.prod(shape) == 0 and math.prod(max(n, 1) for n in shape) > MOST_EMPTY:
        raise Damaged("an array without elements that is too long")
    return shape


def array_from_bytes(
    shape: object, dtype: np.dtype[Any], data: bytes | bytearray, work: Work, fortran: bool = False
) -> Array:
    """A copy of ``data`` as an array.

    Args:
        dtype: of numbers or strings.
        data: the elements one after the other, no byte more and none less.
        fortran: the first index runs fastest.

    Raises:
        Forbidden: objects.
        Damaged: another number of bytes, or a string of what are no characters.
    """
    sizes = checked_shape(shape)
    work.weigh(ARRAY_WEIGHT + len(data))
    flat = _elements(math.prod(sizes), dtype, data)
    return flat.reshape(sizes, order="F" if fortran else "C").copy(order="K")


def _elements(count: int, dtype: np.dtype[Any], data: bytes | bytearray) -> Array:
    """Bytes seen as elements, without a copy."""
    if dtype.kind not in "biufcSU":
        raise Forbidden("it takes bytes for objects")
    if not dtype.itemsize:
        raise Damaged("an array of strings without length")
    if count * dtype.itemsize != len(data):
        raise Damaged(f"{len(data)} bytes for {count} elements of {dtype}")
    if not count:
        return np.empty(0, dtype)
    flat: Array = np.frombuffer(data, dtype)
    if dtype.kind == "b":  # a byte of 2 would be neither true nor false
        truth: Array = flat.view(np.uint8) != 0
        return truth
    if dtype.kind == "U":
        points = flat.view(np.dtype(np.uint32).newbyteorder(dtype.byteorder))
        if points.max() > LARGEST_CODE_POINT:
            raise Damaged("a string of what are no characters")
    return flat


def array_from_list(shape: object, items: list[Any], work: Work, fortran: bool = False) -> Array:
    """An array of the objects in a list, which pickle has built one by one.

    Raises:
        Damaged: another number of objects than the shape asks for.
    """
    sizes = checked_shape(shape)
    if math.prod(sizes) != len(items):
        raise Damaged(f"an array {sizes} of {len(items)} objects")
    work.weigh(ARRAY_WEIGHT + 16 * len(items))
    flat = np.empty(len(items), dtype=object)
    for number, item in enumerate(items):  # one by one, or numpy would look into lists
        flat[number] = item
    array = flat.reshape(sizes)
    return array.copy(order="F") if fortran else array


def finish_array(state: object, work: Work) -> Array:
    """The array that numpy's pickled state describes.

    Args:
        state: ``(1, shape, dtype, fortran, elements)``; the elements are bytes, a string of Python 2 (its
            characters are bytes), or a list if they are objects.

    Raises:
        Damaged, Forbidden: as ``array_from_bytes``.
    """
    if type(state) is not tuple or len(state) != 5 or type(state[0]) is not int or state[0] != 1:
        raise Damaged("an array whose state is none")
    _, shape, dtype, fortran, elements = state
    if not isinstance(dtype, np.dtype) or type(fortran) not in (bool, int):
        raise Damaged("an array whose state is none")
    if dtype.kind == "O":
        if type(elements) is not list:
            raise Forbidden("it takes bytes for objects")
        return array_from_list(shape, elements, work, bool(fortran))
    array = array_from_bytes(shape, dtype, as_bytes(elements, work), work, bool(fortran))
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))  # as numpy does here


def scalar(dtype: object, data: object, work: Work) -> np.generic[Any]:
    """One number or string of numpy's.

    Raises:
        Damaged, Forbidden: as ``array_from_bytes``.
    """
    if not isinstance(dtype, np.dtype):
        raise Damaged("a number of a type that is none")
    content = as_bytes(data, work)
    work.weigh(len(content))
    if not dtype.itemsize and not content:  # the empty string; an array of it cannot be
        return np.str_("") if dtype.kind == "U" else np.bytes_(b"")
    made: np.generic[Any] = _elements(1, dtype, content)[0]
    return made


def as_bytes(value: object, work: Work) -> bytes | bytearray:
    """Bytes as they are; a string of Python 2, read as latin-1, as the bytes it was.

    Raises:
        Damaged: neither.
    """
    if type(value) is bytes or type(value) is bytearray:
        return value
    if type(value) is not str:
        raise Damaged("an array whose elements are no bytes")
    work.weigh(len(value))
    return value.encode("latin1")


class InertRecord:
    """Stands in for a class we do not import: keeps the attributes, has no behaviour."""


class ChumpyArray(InertRecord):
    """``chumpy.ch.Ch``; the numbers are in attribute ``x``."""


class SparseMatrix(InertRecord):
    """``scipy.sparse`` matrix: ``data`` and ``_shape``, and where each number stands."""


class SparseColumns(SparseMatrix):
    """Compressed by column (csc): ``indices``, ``indptr``."""


class SparseRows(SparseMatrix):
    """Compressed by row (csr): ``indices``, ``indptr``."""


class SparseTriples(SparseMatrix):
    """Row, column and number of each entry (coo): ``coords``, or ``row`` and ``col`` in older files."""
