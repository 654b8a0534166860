"""Plain data is read; anything that could run code is refused before it is called."""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import random
import struct
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from safa.data.landmarks import points_of_dictionary
from safa.errors import UserError
from safa.safe_pickle import (
    ChumpyArray,
    SparseColumns,
    SparseRows,
    SparseTriples,
    dense,
    load_data_pickle,
    load_object_npy,
)
from safa.unpickle.symbols import known_names
from tests.fuzz.changes import changed
from tests.fuzz.pickle_samples import (
    as_numpy_1,
    as_python_2,
    assert_plain,
    chumpy_and_scipy,
    chumpy_of_python_2,
    hostile_pickles,
    valid_pickles,
)

ROOT = Path(__file__).parents[2]


def read(value: Any, protocol: int = 2) -> Any:
    return load_data_pickle(io.BytesIO(pickle.dumps(value, protocol)), "file.pkl")


def load(data: bytes) -> Any:
    return load_data_pickle(io.BytesIO(data), "file.pkl")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
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


# ---- what is read reads as pickle reads it -----------------------------------------------------------------

KEYS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
)
LEAVES = KEYS | st.integers(-(2**300), 2**300) | st.floats() | st.binary(max_size=9)
DTYPES = st.sampled_from(["?", "<i2", ">i4", "u1", "<u8", "<f2", ">f4", "<f8", "<c8", "S3", "<U2", ">U3"])
ARRAYS = arrays_of.arrays(DTYPES, arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
SCALARS = arrays_of.arrays(DTYPES, (1,)).map(lambda array: array[0])
VALUES = st.recursive(
    LEAVES | ARRAYS | SCALARS | ARRAYS.map(np.asfortranarray),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.sets(KEYS, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    """Equal, of one type, and of one dtype; two that are no number are equal."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray | np.generic):
        if a.dtype == object:
            return a.shape == b.shape and same(a.reshape(-1).tolist(), b.reshape(-1).tolist())
        order = isinstance(a, np.generic) or a.flags.f_contiguous == b.flags.f_contiguous
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() and order
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(*pair) for pair in zip(a, b, strict=True))
    return bool(a == b) or (a != a and b != b)


@settings(deadline=None)
@given(VALUES, st.integers(0, 5))
def test_plain_values_come_back_as_pickle_gives_them(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    assert same(load(data), pickle.loads(data))
    assert same(load(as_numpy_1(data)), pickle.loads(data))


@settings(deadline=None)
@given(ARRAYS, st.integers(0, 1))
def test_arrays_of_python_2(array: np.ndarray, protocol: int) -> None:
    data = as_python_2(array, protocol)
    assert same(load(data), pickle.loads(data, encoding="latin1"))


def test_an_array_of_objects_keeps_them() -> None:
    inner = np.empty((2, 2), dtype=object)
    inner[0, 0], inner[0, 1], inner[1, 0] = [1, 2], np.array(5), "x"
    for array in (inner, np.asfortranarray(inner)):
        for protocol in range(6):
            assert same(read(array, protocol), array)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("python", [2, 3])
def test_landmark_tables(protocol: int, python: int) -> None:
    faces = [np.full((68, 2), n, np.float32) for n in range(3)]
    if python == 3:
        data = pickle.dumps({n: {"ldmk": face} for n, face in enumerate(faces)}, protocol)
    else:
        data = b"(d" + b"".join(
            b"I%d\n(dS'ldmk'\n%bss" % (n, as_python_2(face, min(protocol, 1))[:-1])
            for n, face in enumerate(faces)
        ) + b"."  # fmt: skip
    for written in (data, as_numpy_1(data)):
        np.testing.assert_array_equal(points_of_dictionary(load(written)), np.stack(faces))


@pytest.mark.parametrize("protocol", range(6))
def test_objects_of_chumpy_and_scipy_become_records(protocol: int) -> None:
    content = load(chumpy_and_scipy(protocol))
    kinds = {type(value) for value in content.values()}
    assert kinds == {ChumpyArray, SparseColumns, SparseRows, SparseTriples}
    for value in content.values():
        np.testing.assert_array_equal(dense(value, "x"), np.eye(2))


def test_a_chumpy_array_of_protocol_0() -> None:
    np.testing.assert_array_equal(dense(load(chumpy_of_python_2()), "x"), np.arange(3.0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int16, torch.uint8, torch.bool])
def test_tensors_come_back(dtype: torch.dtype) -> None:
    for tensor in (
        torch.arange(6).reshape(2, 3).t(),
        torch.arange(9)[2:8:2],
        torch.tensor(3),
        torch.zeros(0, 2),
    ):
        back = read(tensor.to(dtype))
        assert back.dtype == dtype
        assert torch.equal(back, tensor.to(dtype))


def test_an_array_can_be_written_to_and_shares_nothing() -> None:
    a, b = read([np.zeros(3), np.zeros(3)], 5)
    a[0] = 1
    assert b[0] == 0


# ---- what is refused ---------------------------------------------------------------------------------------


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


# Hostile files are read in one child that has little memory; a crash ends it, and shows in what it printed.
_CHILD = """
import io, json, pathlib, resource, sys, time
from safa.errors import UserError
from safa.safe_pickle import load_data_pickle
pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 192 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    started = time.process_time()
    try:
        outcome = "read: " + type(load_data_pickle(io.BytesIO(path.read_bytes()), "file.pkl")).__name__
    except UserError as error:
        outcome = str(error)
    except BaseException as error:
        outcome = repr(error)
    print(json.dumps([path.name, outcome, time.process_time() - started]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float]]:
    folder = tmp_path_factory.mktemp("hostile")
    for name, data in hostile_pickles().items():
        (folder / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.returncode, done.stdout[-300:], done.stderr[-2000:])
    return {name: (outcome, seconds) for name, outcome, seconds in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("name", sorted(hostile_pickles()))
def test_hostile_files_are_refused_in_one_line(name: str, outcomes: dict[str, tuple[str, float]]) -> None:
    outcome, seconds = outcomes[name]
    assert outcome.startswith(("file.pkl: refused to unpickle: ", "file.pkl: not a readable pickle (")), (
        outcome
    )
    assert "\n" not in outcome
    assert outcome.isascii()
    assert seconds < 10


READ_ALL = {known.code: known for known in pickletools.opcodes}
NUMBERS = {"uint1": "<B", "uint2": "<H", "int4": "<i", "uint4": "<I", "uint8": "<Q", "float8": ">d"}
LENGTHS = {"1": "<B", "4": "<I", "8": "<Q", "string1": "<B", "string4": "<i"}
WORDS = st.sampled_from(
    [b"f8", b"O8", b"U1", b"b", b"<", b"|", b"ldmk", b"latin1", b"x", b"AAAAAAAA"]
) | st.binary(max_size=9)
SMALL = st.integers(0, 5) | st.integers(0, 255)


@st.composite
def opcodes(draw: st.DrawFn) -> bytes:
    """One opcode of any protocol with an argument that is mostly valid."""
    known = draw(st.sampled_from(pickletools.opcodes))
    code = known.code.encode("latin1")
    if known.arg is None:
        return code
    kind = known.arg.name
    if kind in NUMBERS:
        number = draw(st.floats() if kind == "float8" else SMALL)
        return code + struct.pack(NUMBERS[kind], number)
    word = draw(WORDS)
    if kind == "stringnl_noescape_pair":
        module, name = draw(st.sampled_from(known_names()) | st.just(("os", "system")))
        return code + f"{module}\n{name}\n".encode()
    if kind.endswith("nl") or kind.startswith(("decimalnl", "stringnl")):
        quoted = repr(word)[1:].encode()
        return code + (str(draw(SMALL)).encode() if "decimal" in kind or "float" in kind else quoted) + b"\n"
    if kind in ("long1", "long4"):
        return code + struct.pack("<B" if kind == "long1" else "<i", len(word)) + word
    width = LENGTHS[kind] if kind in LENGTHS else LENGTHS[kind[-1]]
    return code + struct.pack(width, len(word)) + word


NAMES = st.sampled_from(known_names()).map(lambda names: f"c{names[0]}\n{names[1]}\n".encode())
EMPTY_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
PHRASES = st.sampled_from(
    [
        EMPTY_ARRAY,
        b"(I1\n(I1\nt",
        b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb",
        b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI63\ntb",
        b"I00\nS'AAAAAAAA'\ntb",
        b"(S'x'\nI1\nd",
        b"I1\n\x85R",
    ]
)
PROGRAMS = st.lists(opcodes() | NAMES | PHRASES, max_size=40).map(lambda steps: b"".join(steps) + b".")


def read_or_refuse(data: bytes) -> None:
    """Anything but plain data or one line is a failure."""
    try:
        value = load(data)
    except UserError as error:
        line = str(error)
        assert "\n" not in line
        return
    assert_plain(value)


@settings(deadline=None, max_examples=1000)
@given(PROGRAMS)
def test_any_program_is_read_or_refused(data: bytes) -> None:
    read_or_refuse(data)


@settings(deadline=None, max_examples=1000)
@given(st.integers(0, 2**32))
def test_a_changed_file_is_read_or_refused(seed: int) -> None:
    read_or_refuse(changed(random.Random(seed), SAMPLES))


SAMPLES = [*valid_pickles(), *(data for data in hostile_pickles().values() if len(data) < 4096)]


@pytest.mark.parametrize("data", valid_pickles(), ids=lambda data: f"{len(data)}-{data[:12].hex()}")
def test_a_cut_file_is_refused(data: bytes) -> None:
    assert_plain(load(data))
    for cut in range(0, len(data), 7):
        with pytest.raises(UserError, match=r"^file\.pkl: "):
            load(data[:cut])


def test_every_other_opcode_is_refused_by_name() -> None:
    refused = {"PERSID", "POP", "POP_MARK", "DUP", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}
    refused |= {"NEXT_BUFFER", "READONLY_BUFFER"}
    for known in pickletools.opcodes:
        if known.name in refused:
            with pytest.raises(UserError, match=f"it uses {known.name}, which plain data does not need"):
                load(b"N" + known.code.encode("latin1") + bytes(8))


def test_names_in_a_message_are_short_and_printable() -> None:
    module = "os\x1b[31m\u202e" + "x" * 500
    with pytest.raises(UserError) as caught:
        load(pickle.dumps(module, 4)[:-1] + pickle.dumps("system", 4)[2:-1] + b"\x93.")
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_memory_is_a_small_multiple_of_the_file() -> None:
    import tracemalloc

    content = {n: {"ldmk": np.full((68, 2), n)} for n in range(2000)}
    data = pickle.dumps(content, 2)
    tracemalloc.start()
    try:
        load(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * len(data)


def test_the_fuzzer_counts_what_it_runs() -> None:
    command = [sys.executable, str(ROOT / "tests" / "fuzz" / "pickle_target.py"), "--runs", "300"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ", 0 crashes, " in done.stdout


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
    for junk in (
        b"hello",
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
        b"\x93NUMPY\x09\x00\x00\x00",
    ):
        path.write_bytes(junk)
        with pytest.raises(UserError, match=r"not a \.npy file"):
            load_object_npy(path)


@pytest.mark.parametrize("header", [b"(" * 9000, b"-" * 9000 + b"1", b"{'descr': [('a', '|O')]}"])
def test_the_header_of_a_npy_is_not_evaluated(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "landmarks.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + pickle.dumps(1))
    with pytest.raises(UserError, match="not a pickled dictionary") as caught:
        load_object_npy(path)
    assert len(str(caught.value)) < 400


def test_a_npy_that_holds_something_else_than_it_says(tmp_path: Path) -> None:
    path = tmp_path / "landmarks.npy"
    np.save(path, np.array({}, dtype=object), allow_pickle=True)
    header = path.read_bytes()[:128]
    for value in ({}, np.eye(2), np.array([1, None], dtype=object)):
        path.write_bytes(header + pickle.dumps(value))
        with pytest.raises(UserError, match="beside the one object"):
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


@pytest.mark.parametrize("shape", [(1, 10**12), (10**6, 10**6), (-1, 3), (3,), [3, 3], (2.0, 3.0), None])
def test_a_sparse_record_of_a_shape_that_is_none_is_refused(shape: Any) -> None:
    from scipy import sparse

    for kind in (SparseColumns, SparseRows):
        record = _record(kind, sparse.csc_matrix(np.eye(3)))
        record._shape = shape
        with pytest.raises(UserError, match="sparse matrix"):
            dense(record, "x")


def test_triples_that_name_a_place_twice_add_up() -> None:
    record = SparseTriples()
    vars(record).update(data=np.array([1.0, 2.0]), row=np.array([1, 1]), col=np.array([0, 0]), _shape=(2, 2))
    np.testing.assert_array_equal(dense(record, "x"), [[0, 0], [3, 0]])
