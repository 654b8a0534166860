"""Read pickles of data without running anything inside them.

A pickle is a program: loading one from the web with ``pickle.load`` runs whatever its author put in. The
files of this field (FLAME models, landmark tables, landmark embeddings) are pickles of plain arrays, so this
reader knows only the few constructors that such files need, by name, and refuses every other one before it is
called. Classes that would need a package (chumpy, scipy.sparse) become inert records of their attributes.
"""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch._utils import _rebuild_tensor_v2  # the constructor torch itself writes into pickles

from safa.errors import UserError


class InertRecord:
    """Stands in for a class we do not import: keeps the attributes, has no behaviour."""


class ChumpyArray(InertRecord):
    """``chumpy.ch.Ch``; the numbers are in attribute ``x``."""


class SparseMatrix(InertRecord):
    """``scipy.sparse`` compressed matrix: ``data``, ``indices``, ``indptr``, ``_shape``."""


class SparseColumns(SparseMatrix):
    """Compressed by column (csc)."""


class SparseRows(SparseMatrix):
    """Compressed by row (csr)."""


def _storage_from_bytes(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """``_codecs.encode`` as Python 3 writes it into protocol 2 pickles of numpy data."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"codec {encoding!r}")
    return text.encode("latin1")


# numpy's own constructors, wherever this version of it keeps them
_reconstruct: Any = np.empty(0).__reduce__()[0]
_from_buffer: Any = np.empty(0).__reduce_ex__(5)[0]
_scalar: Any = np.float64(0).__reduce__()[0]

_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("__builtin__", "set"): set,
    ("builtins", "set"): set,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
    ("torch.storage", "_load_from_bytes"): _storage_from_bytes,
    ("chumpy.ch", "Ch"): ChumpyArray,
    ("chumpy", "Ch"): ChumpyArray,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _reconstruct for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"scipy.sparse.{name}", "csc_matrix"): SparseColumns for name in ("csc", "_csc")},
    **{(f"scipy.sparse.{name}", "csr_matrix"): SparseRows for name in ("csr", "_csr")},
}


class _DataUnpickler(pickle.Unpickler):
    """``find_class`` is pickle's only door to code; ours opens for the names above alone."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not plain data") from None


def load_data_pickle(file: BinaryIO, where: str) -> Any:
    """Read one pickle of plain data (Python 2 or 3).

    Args:
        file: open at the start of the pickle.
        where: the file's name, for the error.

    Raises:
        UserError: the pickle is damaged, or asks for anything but arrays, tensors and plain containers.
    """
    try:
        return _DataUnpickler(file, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise UserError(
            f"refused to unpickle: {error}", where, "Get the file from its owner; nothing in it was run."
        ) from None
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(f"not a readable pickle ({type(error).__name__}: {error})", where) from None


def load_object_npy(path: Path) -> Any:
    """The object inside a ``.npy`` that holds a pickled dictionary (``np.save(path, some_dict)``)."""
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            reader = np.lib.format.read_array_header_1_0
            if version != (1, 0):
                reader = np.lib.format.read_array_header_2_0
            shape, _, dtype = reader(file)
        except ValueError as error:
            raise UserError(f"not a .npy file ({error})", str(path)) from None
        if dtype != np.dtype(object) or shape != ():
            raise UserError(f"holds an array {shape} of {dtype}, not a pickled dictionary", str(path))
        array = load_data_pickle(file, str(path))
    return array.item()


def dense(value: Any, where: str) -> np.ndarray[Any, Any]:
    """A plain numpy array from an array, a tensor, a chumpy record or a sparse record.

    Raises:
        UserError: the value is none of these, or a record lacks its numbers.
    """
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, ChumpyArray):
        value = vars(value).get("x")
    if isinstance(value, SparseMatrix):
        return _dense_from_sparse(value, where)
    if not isinstance(value, np.ndarray) or value.dtype == object:
        raise UserError(f"expected an array, found {type(value).__name__}", where)
    return value


def _dense_from_sparse(record: SparseMatrix, where: str) -> np.ndarray[Any, Any]:
    fields = vars(record)
    try:
        data, indices, indptr = (np.asarray(fields[key]) for key in ("data", "indices", "indptr"))
        rows, columns = (int(n) for n in fields["_shape"])
    except (KeyError, TypeError, ValueError):
        raise UserError("a sparse matrix without data, indices, indptr or shape", where) from None
    by_column = isinstance(record, SparseColumns)
    major_count, minor_count = (columns, rows) if by_column else (rows, columns)
    fits = (
        indptr.shape == (major_count + 1,)
        and data.shape == indices.shape == (int(indptr[-1]),)
        and bool((np.diff(indptr) >= 0).all())
        and (indices.size == 0 or (indices.min() >= 0 and indices.max() < minor_count))
    )
    if not fits:
        raise UserError("a sparse matrix whose parts do not fit together", where)
    major = np.repeat(np.arange(major_count), np.diff(indptr))
    full = np.zeros((major_count, minor_count), dtype=data.dtype)
    full[major, indices] = data
    return full.T.copy() if by_column else full
