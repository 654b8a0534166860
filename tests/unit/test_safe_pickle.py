"""Plain data is read; anything that could run code is refused before it is called."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from safa.errors import UserError
from safa.safe_pickle import SparseColumns, SparseRows, dense, load_data_pickle, load_object_npy


def read(value: Any, protocol: int = 2) -> Any:
    return load_data_pickle(io.BytesIO(pickle.dumps(value, protocol)), "file.pkl")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_and_containers_come_back(protocol: int) -> None:
    value = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": [1, "two", {3}],
        "c": np.float32(2.5),
        "d": torch.arange(4),
    }
    back = read(value, protocol)
    np.testing.assert_array_equal(back["a"], value["a"])
    assert back["b"] == [1, "two", {3}]
    assert back["c"] == np.float32(2.5)
    assert torch.equal(back["d"], torch.arange(4))


class _Runs:
    """Pickles to a call of any function with any arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("function", [os.system, os.mkdir, eval, exec, getattr, __import__, np.load])
def test_code_is_refused_before_it_runs(function: Any, protocol: int, tmp_path: Path) -> None:
    victim = tmp_path / "made_by_pickle"
    argument = f"touch {victim}" if function is os.system else str(victim)
    with pytest.raises(UserError, match=r"^file\.pkl: refused to unpickle") as caught:
        read({"data": _Runs(function, argument)}, protocol)
    assert not victim.exists()
    assert "\n" not in str(caught.value)


def test_a_pickle_inside_a_torch_storage_is_refused_too() -> None:
    inner = io.BytesIO()
    torch.save({"x": _Runs(os.system, "true")}, inner, _use_new_zipfile_serialization=False)
    nested = _Runs(torch.storage._load_from_bytes, inner.getvalue())
    with pytest.raises(UserError, match=r"file\.pkl"):
        read(nested)


def test_damage_is_one_line() -> None:
    whole = pickle.dumps({"a": np.arange(100)}, 2)
    for cut in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        with pytest.raises(UserError, match=r"^file\.pkl: ") as caught:
            load_data_pickle(io.BytesIO(whole[:cut]), "file.pkl")
        assert "\n" not in str(caught.value)


def test_object_npy(tmp_path: Path) -> None:
    path = tmp_path / "landmarks.npy"
    np.save(path, np.array({"a": np.eye(2)}, dtype=object), allow_pickle=True)
    np.testing.assert_array_equal(load_object_npy(path)["a"], np.eye(2))
    np.save(path, np.array(_Runs(os.system, "true"), dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="refused to unpickle"):
        load_object_npy(path)
    np.save(path, np.eye(2))
    with pytest.raises(UserError, match="not a pickled dictionary"):
        load_object_npy(path)
    path.write_bytes(b"hello")
    with pytest.raises(UserError, match=r"not a \.npy file"):
        load_object_npy(path)


def _record(kind: type[SparseColumns] | type[SparseRows], matrix: Any) -> Any:
    record = kind()
    vars(record).update(data=matrix.data, indices=matrix.indices, indptr=matrix.indptr, _shape=matrix.shape)
    return record


def test_sparse_records_equal_scipy() -> None:
    from scipy import sparse

    full = np.random.default_rng(0).random((5, 7)) * (np.random.default_rng(1).random((5, 7)) < 0.3)
    np.testing.assert_array_equal(dense(_record(SparseColumns, sparse.csc_matrix(full)), "x"), full)
    np.testing.assert_array_equal(dense(_record(SparseRows, sparse.csr_matrix(full)), "x"), full)


def test_a_sparse_record_that_lies_is_refused() -> None:
    from scipy import sparse

    record = _record(SparseColumns, sparse.csc_matrix(np.eye(3)))
    record.indices = np.array([0, 1, 7])
    with pytest.raises(UserError, match="do not fit together"):
        dense(record, "x")
    del record.data
    with pytest.raises(UserError, match="without data"):
        dense(record, "x")
