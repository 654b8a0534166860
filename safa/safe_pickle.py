"""Read pickles of data without running anything inside them.

A pickle is a program: loading one from the web with ``pickle.load`` runs whatever its author put in. The
files of this field (FLAME models, landmark tables, landmark embeddings) are pickles of plain arrays, so they
are read by an interpreter of our own (``safa.unpickle``) that can build nothing but numbers, strings,
containers and arrays of them. Classes that would need a package (chumpy, scipy.sparse) become inert records
of their attributes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from safa.errors import UserError
from safa.limits import check_limit, limit
from safa.reading import read_limited
from safa.unpickle.arrays import (
    ChumpyArray,
    InertRecord,
    SparseColumns,
    SparseMatrix,
    SparseRows,
    SparseTriples,
)
from safa.unpickle.machine import Machine
from safa.unpickle.plain import check_plain
from safa.unpickle.work import Damaged, Forbidden, Work

__all__ = [
    "ChumpyArray",
    "InertRecord",
    "SparseColumns",
    "SparseMatrix",
    "SparseRows",
    "SparseTriples",
    "dense",
    "load_data_pickle",
    "load_object_npy",
]

MOST_DENSE = 1 << 22  # elements of a sparse matrix written out; FLAME's has 5 x 5023
_NPY = b"\x93NUMPY"
_NPY_LONGEST = 10_000  # bytes of a header, as numpy bounds it
_NPY_OBJECT = re.compile(
    rb"\{\s*'descr':\s*'\|O[48]?',\s*'fortran_order':\s*(True|False),\s*'shape':\s*\(\s*\),?\s*\}\s*"
)


def load_data_pickle(file: BinaryIO, where: str) -> Any:
    """Read one pickle of plain data (Python 2 or 3, protocol 0 to 5).

    The memory it takes is a small multiple of the file's size, and so is the work of walking what it gives:
    an object that the file names often counts as often.

    Args:
        file: open at the start of the pickle.
        where: the file's name, for the error.

    Returns:
        Dictionaries, lists, tuples, sets, numbers, strings, bytes, numpy arrays and numbers, tensors, and
        records of chumpy and scipy.

    Raises:
        UserError: the pickle is damaged, or asks for anything else.
    """
    data = file.read(limit("pickle_bytes") + 1)
    check_limit("pickle_bytes", len(data), where)
    return _load(data, where)


def _load(data: bytes, where: str) -> Any:
    try:
        value = Machine(data, Work(len(data))).run()
        check_plain(value, len(data))
    except Forbidden as error:
        raise UserError(
            f"refused to unpickle: {error}", where, "Get the file from its owner; nothing in it was run."
        ) from None
    except Damaged as error:
        raise UserError(f"not a readable pickle ({error})", where, "Get the file from its owner.") from None
    except ValueError as error:  # text in another encoding, a number that is none
        raise UserError(
            f"not a readable pickle ({type(error).__name__})", where, "Get the file from its owner."
        ) from None
    return value


def load_object_npy(path: Path) -> Any:
    """The object inside a ``.npy`` that holds a pickled dictionary (``np.save(path, some_dict)``).

    Raises:
        UserError: another kind of file, or as ``load_data_pickle``.
    """
    data = read_limited(path, "pickle_bytes")
    header, payload = _split_npy(data, str(path))
    if not _NPY_OBJECT.fullmatch(header):
        held = ascii(header[:120].decode("latin1").strip())
        raise UserError(f"holds an array {held}, not a pickled dictionary", str(path))
    array = _load(payload, str(path))
    if not isinstance(array, np.ndarray) or array.shape != () or array.dtype != object:
        raise UserError("holds something beside the one object it announces", str(path))
    return array.item()


def _split_npy(data: bytes, where: str) -> tuple[bytes, bytes]:
    """Header and payload of a ``.npy``. numpy would run the header through Python's parser; we only look."""
    version = data[len(_NPY) : len(_NPY) + 2]
    size = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}.get(version, 0)
    start = len(_NPY) + 2 + size
    if not data.startswith(_NPY) or not size or len(data) < start:
        raise UserError("not a .npy file", where)
    length = int.from_bytes(data[start - size : start], "little")
    if length > _NPY_LONGEST or start + length > len(data):
        raise UserError("not a .npy file (its header is cut or too long)", where)
    return data[start : start + length], data[start + length :]


def dense(value: Any, where: str) -> np.ndarray[Any, Any]:
    """A plain array of numbers from an array, a tensor, a chumpy record or a sparse record.

    Raises:
        UserError: the value is none of these, or a record lacks its numbers.
    """
    if isinstance(value, torch.Tensor):
        return (value.float() if value.dtype is torch.bfloat16 else value).numpy()
    if isinstance(value, ChumpyArray):
        value = vars(value).get("x")
    if isinstance(value, SparseMatrix):
        return _dense_from_sparse(value, where)
    if not isinstance(value, np.ndarray):
        raise UserError(f"expected an array, found {type(value).__name__}", where)
    if value.dtype.kind not in "biuf":
        raise UserError(f"expected an array of numbers, found one of {value.dtype}", where)
    if value.dtype.kind == "f" and not (np.abs(value) <= np.finfo(np.float32).max).all():
        raise UserError("holds numbers that are not finite", where)
    return value


def _dense_from_sparse(record: SparseMatrix, where: str) -> np.ndarray[Any, Any]:
    rows, columns = _sparse_shape(record, where)
    data = _sparse_part(record, "data", "biuf", where)
    if isinstance(record, SparseTriples):
        row, column = _places_of_triples(record, where)
    else:
        by_column = isinstance(record, SparseColumns)
        major = _major_of_compressed(record, columns if by_column else rows, where)
        minor = _sparse_part(record, "indices", "iu", where)
        row, column = (minor, major) if by_column else (major, minor)
    inside = row.shape == column.shape == data.shape and _within(row, rows) and _within(column, columns)
    if not inside:
        raise UserError("a sparse matrix whose parts do not fit together", where)
    full = np.zeros((rows, columns), dtype=data.dtype)
    np.add.at(full, (row.astype(np.int64), column.astype(np.int64)), data)  # as scipy: repeated ones add up
    return full


def _sparse_shape(record: SparseMatrix, where: str) -> tuple[int, int]:
    shape = vars(record).get("_shape")
    if type(shape) is not tuple or len(shape) != 2 or not all(isinstance(n, int | np.integer) for n in shape):
        raise UserError("a sparse matrix without data, indices, indptr or shape", where)
    rows, columns = (int(n) for n in shape)
    if min(rows, columns) < 0 or max(rows, 1) * max(columns, 1) > MOST_DENSE:
        raise UserError(f"a sparse matrix of {rows} x {columns}, which is too large", where)
    return rows, columns


def _sparse_part(record: SparseMatrix, key: str, kinds: str, where: str) -> np.ndarray[Any, Any]:
    part = vars(record).get(key)
    if not isinstance(part, np.ndarray) or part.ndim != 1 or part.dtype.kind not in kinds:
        raise UserError("a sparse matrix without data, indices, indptr or shape", where)
    return part


def _major_of_compressed(record: SparseMatrix, count: int, where: str) -> np.ndarray[Any, Any]:
    """The row of each entry if rows are compressed, the column if columns are."""
    ends = _sparse_part(record, "indptr", "iu", where)
    entries = len(_sparse_part(record, "indices", "iu", where))
    steps = np.diff(ends.astype(np.int64))
    if len(ends) != count + 1 or ends[0] != 0 or ends[-1] != entries or (steps < 0).any():
        raise UserError("a sparse matrix whose parts do not fit together", where)
    return np.repeat(np.arange(count), steps)


def _places_of_triples(record: SparseMatrix, where: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    coords = vars(record).get("coords")  # scipy since 1.13; row and col before
    if type(coords) is tuple and len(coords) == 2:
        vars(record).update(row=coords[0], col=coords[1])
    return _sparse_part(record, "row", "iu", where), _sparse_part(record, "col", "iu", where)


def _within(places: np.ndarray[Any, Any], count: int) -> bool:
    return places.size == 0 or (int(places.min()) >= 0 and int(places.max()) < count)
