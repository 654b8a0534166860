"""Values between two processes, in a column of a table."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import packed


def through(*values: object) -> list[object]:
    """What comes out of a column."""
    buffers = [None if value is None else packed.packed(value) for value in values]
    column = packed.column_of(buffers)
    assert column.type == packed.TYPE
    chunks = pa.chunked_array([column, column.slice(1)])
    found = packed.buffers_of(chunks)
    assert len(found) == 2 * len(values) - 1
    assert [each is None for each in found[len(values) :]] == [value is None for value in values[1:]]
    return [None if each is None else packed.unpacked(each) for each in found[: len(values)]]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["u1", "f4", "f8", "i8"]), st.lists(st.integers(0, 5), min_size=0, max_size=4)
        ),
        max_size=5,
    )
)
def test_arrays_of_any_shape_come_through(kinds: list[tuple[str, list[int]]]) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 200, shape).astype(dtype) for dtype, shape in kinds]
    arrays += [array.T for array in arrays] + [array[..., ::2] for array in arrays if array.ndim]
    (found, nothing) = through({"arrays": arrays, "name": "a"}, None)
    assert nothing is None
    assert isinstance(found, dict)
    assert found["name"] == "a"
    for one, other in zip(found["arrays"], arrays, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_arrays_are_views_of_the_buffer_and_cannot_be_written() -> None:
    buffer = packed.packed(np.arange(1000))
    found = packed.unpacked(buffer)
    assert buffer.address < found.ctypes.data < buffer.address + buffer.size
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


def test_a_single_value_is_not_copied_into_its_column() -> None:
    buffer = packed.packed(np.arange(1000))
    (found,) = packed.buffers_of(pa.chunked_array([packed.column_of([buffer])]))
    assert found is not None
    assert found.address == buffer.address


def test_a_column_without_values() -> None:
    assert packed.column_of([]) == pa.nulls(0, packed.TYPE)
    assert packed.column_of([None, None]).null_count == 2
