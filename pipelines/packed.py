"""Objects on their way between two processes, in a column of a table: their arrays are copied once, and read
where they lie.

A window of pictures has many megabytes. Pickled as it is, it would be copied into the pickle, from there into
the column, and again into new memory when it is read.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

TYPE = pa.large_binary()
ALIGNED = 64  # bytes, of each part, as Arrow's own buffers are
_SIZE = np.dtype("<i8")


def packed(value: Any) -> pa.Buffer:
    """Pickle a value for ``unpacked``: number of parts, their sizes, the pickle, the bytes of each array."""
    arrays: list[pickle.PickleBuffer] = []
    stream = pickle.dumps(value, protocol=5, buffer_callback=arrays.append)
    parts = [memoryview(stream), *(array.raw() for array in arrays)]
    sizes = [part.nbytes for part in parts]
    head = np.array([len(parts), *sizes], _SIZE)
    ends = np.cumsum([_aligned(head.nbytes), *map(_aligned, sizes)])
    buffer = pa.allocate_buffer(int(ends[-1]))
    whole = np.frombuffer(buffer, np.uint8)
    whole[: head.nbytes] = head.view(np.uint8)
    for part, start in zip(parts, ends, strict=False):
        whole[start : start + part.nbytes] = part
    return buffer


def unpacked(buffer: pa.Buffer) -> Any:
    """The value that one of our own processes has packed; its arrays are views of the buffer, read-only."""
    count = int(np.frombuffer(buffer, _SIZE, 1)[0])
    sizes = np.frombuffer(buffer, _SIZE, count, offset=_SIZE.itemsize)
    starts = np.cumsum([_aligned((1 + count) * _SIZE.itemsize), *map(_aligned, sizes)])
    stream, *arrays = (
        buffer.slice(int(start), int(size)) for start, size in zip(starts, sizes, strict=False)
    )
    return pickle.loads(stream, buffers=arrays)  # noqa: S301


def column_of(buffers: Sequence[pa.Buffer | None]) -> pa.Array:
    """A column of ``TYPE`` with these values; of a single one it is the buffer itself."""
    arrays = [pa.nulls(1, TYPE) if buffer is None else _array(buffer) for buffer in buffers]
    return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays or [pa.nulls(0, TYPE)])


def buffers_of(column: pa.ChunkedArray) -> list[pa.Buffer | None]:
    """The values of a column where they lie: a scalar of Arrow would be a copy."""
    found: list[pa.Buffer | None] = []
    for chunk in column.chunks:
        _, offsets, values = chunk.buffers()
        bounds = np.frombuffer(offsets, _SIZE)[chunk.offset :].tolist()
        valid = chunk.is_valid().to_pylist()
        for is_there, (first, last) in zip(valid, pairwise(bounds), strict=False):
            found.append(values.slice(first, last - first) if is_there else None)
    return found


def _array(buffer: pa.Buffer) -> pa.Array:
    offsets = pa.py_buffer(np.array([0, buffer.size], _SIZE))
    return pa.LargeBinaryArray.from_buffers(TYPE, 1, [None, offsets, buffer])


def _aligned(size: int) -> int:
    return -(-int(size) // ALIGNED) * ALIGNED
