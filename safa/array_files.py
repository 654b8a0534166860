"""Array files of numpy (``.npy``, ``.npz``) from anyone: nothing is unpickled, and no header is believed.

numpy takes memory for the shape that a header claims before it reads a byte, and a ``.npz`` unfolds to a
thousand times its size. So the header is read first, and checked against the bytes that follow it.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from safa.errors import UserError
from safa.files import check_regular
from safa.limits import check_limit, limit, over_limit
from safa.reading import boundary
from safa.unpickle.zip_records import ZipRecords

Array = NDArray[Any]
_PLAIN = "biuf"  # kinds of dtype: bool, whole numbers, floats


def read_npz(path: Path, names: Sequence[str]) -> dict[str, Array]:
    """Read arrays of numbers by name from a ``.npz``.

    Raises:
        UserError: no such file, not such a file, an array is missing or holds anything but numbers, or they
            have more bytes than the limit ``array_bytes``.
    """
    check_regular(path)
    check_limit("array_bytes", path.stat().st_size, str(path))
    arrays, left = {}, limit("array_bytes")
    with boundary(str(path), "not a readable .npz file"), path.open("rb", buffering=0) as file:
        ZipRecords(file, path.stat().st_size)  # refuses a directory of millions of names before it is read
    with boundary(str(path), "not a readable .npz file"), zipfile.ZipFile(path) as archive:
        for name in names:
            try:
                size = archive.getinfo(f"{name}.npy").file_size
            except KeyError:
                raise UserError(f"no array named {name!r}", str(path)) from None
            left -= size
            if left < 0:
                raise over_limit("array_bytes", str(path))
            with archive.open(f"{name}.npy") as file:
                arrays[name] = _read(file, size, f"{path}: {name}")
    return arrays


def read_npy(path: Path) -> Array:
    """Read an array of numbers from a ``.npy``.

    Raises:
        UserError: no such file, not such a file, not numbers, or larger than the limit ``array_bytes``.
    """
    check_regular(path)
    size = path.stat().st_size
    check_limit("array_bytes", size, str(path))
    with boundary(str(path), "not a readable .npy file"), path.open("rb") as file:
        return _read(file, size, str(path))


def map_npy(path: Path) -> Array:
    """Map an array of numbers in a ``.npy`` into memory, read-only: slices cost what they hold.

    Raises:
        UserError: no such file, not such a file, or not numbers.
    """
    check_regular(path)
    size = path.stat().st_size
    with boundary(str(path), "not a readable .npy file"):
        with path.open("rb") as file:
            shape, fortran, dtype = _header(file, size, str(path))
            start = file.tell()
        if math.prod(shape) == 0:
            return np.empty(shape, dtype)
        order: Literal["F", "C"] = "F" if fortran else "C"
        return np.memmap(path, dtype, mode="r", offset=start, shape=shape, order=order)


def _read(file: IO[bytes], size: int, where: str) -> Array:
    shape, fortran, dtype = _header(file, size, where)
    count = math.prod(shape)
    data = file.read(count * dtype.itemsize)
    if len(data) != count * dtype.itemsize:
        raise UserError("not a readable .npy file (it is cut)", where)
    flat = np.frombuffer(bytearray(data), dtype)
    return flat.reshape(shape, order="F" if fortran else "C")  # (count,) -> shape


def _header(file: IO[bytes], size: int, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether the first axis runs fastest, and dtype; the file is left at the first number.

    Raises:
        UserError: the array is not of numbers, or longer than the rest of ``size`` bytes.
    """
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise UserError(f"not a readable .npy file (version {version})", where)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.kind not in _PLAIN or dtype.names is not None or dtype.subdtype is not None:
        raise UserError(f"holds {dtype}, not numbers", where)
    if any(side < 0 for side in shape) or len(shape) > 8:
        raise UserError(f"not a readable .npy file (shape {shape})", where)
    if math.prod(shape) * dtype.itemsize > size - file.tell():
        raise UserError(f"not a readable .npy file (too short for its shape {shape})", where)
    return shape, fortran, dtype
