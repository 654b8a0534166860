"""Pickles to start from: all shapes that are read, and small hostile ones. For tests and for the fuzzer."""

from __future__ import annotations

import pickle
import struct
import sys
import types
from collections import OrderedDict
from typing import Any

import numpy as np
import torch

from safa.unpickle.arrays import InertRecord

PLAIN = (type(None), bool, int, float, str, bytes, bytearray, torch.Tensor)


def assert_plain(value: object) -> None:
    """Fail unless a value is plain data all through; written apart from the reader's own check."""
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if type(item) in PLAIN or isinstance(item, np.generic) or id(item) in seen:
            continue
        seen.add(id(item))
        if type(item) in (list, tuple, set, frozenset):
            waiting.extend(item)  # type: ignore[arg-type]
        elif type(item) in (dict, OrderedDict):
            waiting.extend(item)  # type: ignore[arg-type]
            waiting.extend(item.values())  # type: ignore[attr-defined]
        elif isinstance(item, InertRecord):
            waiting.extend(vars(item).values())
        else:
            assert type(item) is np.ndarray, type(item)
            assert item.dtype.kind in "biufcSUO", item.dtype
            if item.dtype.kind == "O":
                waiting.extend(item.reshape(-1).tolist())
            else:
                item.tobytes()


class Calls:
    """Pickles to a call of any function with any arguments, and to setting any state of the result."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.made = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.made


def chumpy_and_scipy(protocol: int) -> bytes:
    """A dictionary like FLAME's: a chumpy array, a sparse matrix, a set. Needs neither package."""
    classes: dict[tuple[str, str], dict[str, Any]] = {("chumpy.ch", "Ch"): {"x": np.eye(2), "dirty": {"x"}}}
    for kind in ("csc", "csr"):
        parts = {"data": np.ones(2), "indices": np.arange(2), "indptr": np.arange(3), "_shape": (2, 2)}
        classes[f"scipy.sparse.{kind}", f"{kind}_matrix"] = parts
        classes[f"scipy.sparse._{kind}", f"{kind}_matrix"] = parts
    classes["scipy.sparse.coo", "coo_matrix"] = {
        "data": np.ones(2), "row": np.arange(2), "col": np.arange(2), "_shape": (2, 2)
    }  # fmt: skip
    before = dict(sys.modules)
    content: dict[str, Any] = {}
    try:
        sys.modules["chumpy"] = types.ModuleType("chumpy")
        for (module, name), attributes in classes.items():
            sys.modules[module] = types.ModuleType(module)
            kind_of = type(name, (), {"__module__": module})
            setattr(sys.modules[module], name, kind_of)
            content[f"{module}.{name}"] = kind_of()
            vars(content[f"{module}.{name}"]).update(attributes)
        return pickle.dumps(content, protocol)
    finally:
        for module in ("chumpy", *(module for module, _ in classes)):
            del sys.modules[module]
        sys.modules.update(before)


def as_numpy_1(data: bytes) -> bytes:
    """A pickle as numpy 1 would write it: its modules lay elsewhere."""
    for name in (b"multiarray", b"numeric"):
        for new, old in ((b"numpy._core." + name, b"numpy.core." + name),):
            for width in ("<B", "<I"):  # a name behind its length
                data = data.replace(struct.pack(width, len(new)) + new, struct.pack(width, len(old)) + old)
            data = data.replace(b"c" + new, b"c" + old)
    if data[2:3] == pickle.FRAME:  # one frame holds all of a small pickle
        data = data[:3] + struct.pack("<Q", len(data) - 11) + data[11:]
    return data


def as_python_2(array: np.ndarray[Any, Any], protocol: int) -> bytes:
    """An array as Python 2 pickles it: its bytes are a string."""
    code = array.dtype.str[1:].encode()
    order = array.dtype.str[:1].encode()

    def string(value: bytes) -> bytes:
        return (
            b"S" + repr(value)[1:].encode() + b"\n"
            if protocol < 1
            else b"T" + struct.pack("<i", len(value)) + value
        )

    shape = b"(" + b"".join(b"I%d\n" % n for n in array.shape) + b"t"
    size = b"I%d\n" % (array.dtype.itemsize if array.dtype.kind in "SU" else -1)
    dtype = b"cnumpy\ndtype\np4\n(" + string(code) + b"I0\nI1\ntRp5\n(I3\n" + string(order) + b"NNN" + size
    return (
        b"cnumpy.core.multiarray\n_reconstruct\np1\n(cnumpy\nndarray\np2\n(I0\nt"
        + string(b"b") + b"tRp3\n(I1\n" + shape
        + dtype + b"I-1\nI0\ntbI00\n" + string(array.tobytes()) + b"tb."
    )  # fmt: skip


def chumpy_of_python_2() -> bytes:
    """A chumpy array in protocol 0, where ``copy_reg`` makes the object."""
    array = as_python_2(np.arange(3.0), 0)[:-1]
    return b"ccopy_reg\n_reconstructor\n(cchumpy.ch\nCh\nc__builtin__\nobject\nNtR(dS'x'\n" + array + b"sb."


def valid_pickles() -> list[bytes]:
    """One of each shape and protocol."""
    arrays: list[Any] = [
        np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        np.array(["a", "bc"]), np.array([b"x"]), np.array(3, dtype=">u4"), np.zeros((0, 2), bool),
        np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2), np.array([1, "two", None], dtype=object),
    ]  # fmt: skip
    values: list[Any] = [
        {0: {"ldmk": np.zeros((3, 2), np.float32)}, 1: {"ldmk": None}},
        {"a": [1, -2, 2**40, 2.5, None, True], "b": ("x", b"y", "\u20ac"), "c": {1, 2}, "d": bytearray(b"z")},
        OrderedDict(a=np.float32(1), b=np.str_("q")),
        torch.arange(6.0).reshape(2, 3).t(),
        *arrays,
    ]
    made = [
        pickle.dumps(value, protocol)
        for value in values
        for protocol in range(6)
        if _writable(value, protocol)
    ]
    made += [as_numpy_1(data) for data in made]
    made += [chumpy_and_scipy(protocol) for protocol in range(6)]
    made += [as_python_2(array, protocol) for array in arrays[:5] for protocol in (0, 1)]
    return [*made, chumpy_of_python_2()]


def _writable(value: object, protocol: int) -> bool:
    """A bytearray is a call of its class before protocol 5, and a frozenset before 4; neither is read."""
    return protocol == 5 or not (isinstance(value, dict) and "d" in value)


def array_program(state: bytes, before: bytes = b"") -> bytes:
    """An empty array of numpy's, and then a state for it."""
    return before + b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR" + state + b"b."


def dtype_program(code: bytes, state: bytes) -> bytes:
    """A dtype with a state."""
    return b"cnumpy\ndtype\n(S'" + code + b"'\nI0\nI1\ntR" + state + b"b"


def hostile_pickles() -> dict[str, bytes]:
    """Small files that would run something, crash, hang, or take far more memory than they have bytes."""
    objects = np.dtype("O")
    pointers = Calls(np.ndarray, (1,), objects, b"A" * 8)
    hidden_state = (3, "|", None, ("a",), {"a": (objects, 0)}, 8, 1, 0)
    hidden = Calls(np.dtype, "V8", state=hidden_state)
    vertices = Calls(np.ndarray, (4, 3), hidden, b"A" * 96)
    reconstruct = np.empty(0).__reduce__()[0]  # type: ignore[index]
    scalar = np.float64(0).__reduce__()[0]  # type: ignore[index]
    o8 = dtype_program(b"O8", b"(I3\nS'|'\nNNNI-1\nI-1\nI63\nt")
    f8 = dtype_program(b"f8", b"(I3\nS'<'\nNNNI-1\nI-1\nI0\nt")
    field = b"(I3\nS'|'\nN(S'a'\nt(dS'a'\n(" + o8 + b"I0\ntsI8\nI1\nI0\nt"
    changed = array_program(b"(I1\n(I1\nt" + f8 + b"p0\nI00\nS'AAAAAAAA'\nt")[:-1] + b"g0\n" + field + b"b."
    return {
        "set of pointers": pickle.dumps(Calls(set, pointers)),
        "objects hidden in a dtype": pickle.dumps({"v_template": vertices, "f": vertices}),
        "memo": b"Nr\x00\x00\x00\x0e.",
        "objects in a state": array_program(b"(I1\n(I1\nt" + o8 + b"I00\nS'AAAAAAAA'\nt"),
        "hidden objects in a state": pickle.dumps(
            Calls(reconstruct, np.ndarray, (0,), b"b", state=(1, (1,), hidden, False, b"A" * 8))
        ),
        "scalar of objects": pickle.dumps(Calls(scalar, objects, b"A" * 8)),
        "scalar with a lying dtype": pickle.dumps(Calls(scalar, hidden, b"A" * 8)),
        "scalar that is too short": pickle.dumps(Calls(scalar, np.dtype("f8"), b"A")),
        "dtype changed after its array": changed,
        "dtype that is a list of numbers": dtype_program(
            b"f8", b"(I3\nS'<'\n(" + f8 + b"(I9\nttNNI-1\nI-1\nI0\nt"
        ) + b".",
        "strings longer than they are": dtype_program(b"S5", b"(I3\nS'|'\nNNNI5000000\nI1\nI0\nt") + b".",
        **_too_much(f8),
        **_tangled(),
        **_torch_lies(),
    }  # fmt: skip


def _too_much(f8: bytes) -> dict[str, bytes]:
    """Files that ask for memory."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    prepared = f8 + b"p0\nB" + struct.pack("<I", 80_000) + bytes(80_000) + b"p1\n("
    again = array + b"(I1\n(I10000\ntg0\nI00\ng1\ntb"
    members = b"(" + b"".join(b"M" + struct.pack("<H", n) for n in range(60_000)) + b"lp0\n("
    return {
        "memo by its text": b"Np234881024\n.",
        "memo read": b"j\x00\x00\x00\x0e.",
        "array copied many times": prepared + again * 5_000 + b"l.",
        "set copied many times": members + b"c__builtin__\nset\n(g0\ntR" * 2_000 + b"l.",
        "large shape": array + b"(I1\n(L4611686018427387904\nL4\nt" + f8 + b"I00\nS''\ntb.",
        "endless rows of nothing": array + b"(I1\n(L4611686018427387904\nI0\nt" + f8 + b"I00\nS''\ntb.",
        "negative shape": array + b"(I1\n(I-1\nI-8\nt" + f8 + b"I00\nS'" + b"A" * 64 + b"'\ntb.",
        "many dimensions": array + b"(I1\n(" + b"I1\n" * 1_000 + b"t" + f8 + b"I00\nS'AAAAAAAA'\ntb.",
        "long string": b"\x8d" + struct.pack("<Q", 1 << 63) + b"abc.",
        "long bytes": b"\x8e" + struct.pack("<Q", 1 << 40) + b"abc.",
        "long bytearray": b"\x96" + struct.pack("<Q", 1 << 40) + b"abc.",
        "negative length": b"T\xff\xff\xff\xffabc.",
        "frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.",
        "long number": b"\x8b" + struct.pack("<I", 1 << 20) + b"\x7f" * (1 << 20) + b".",
        "long number as text": b"L" + b"9" * 1_000_000 + b"L\n.",
        "many sets": b"(" + b"\x8f" * 3_000_000 + b"l.",
        "many marks": b"(" * 3_000_000 + b".",
    }


def _tangled() -> dict[str, bytes]:
    """Files whose value cannot be walked."""
    return {
        "deep list": b"]" * 100_000 + b"a" * 99_999 + b".",
        "deep tuple": b")" + b"\x85" * 100_000 + b".",
        "deep key": b"})" + b"\x85" * 100_000 + b"Ns.",
        "key that hashes for ever": b"})" + b"q\x00h\x00\x86" * 64 + b"Ns.",
        "tuple of itself for ever": b")" + b"q\x00h\x00\x86" * 64 + b".",
        "lists of one list": b"](" + b"K\x01" * 1_000 + b"eq\x00]q\x01(" + b"h\x00" * 1_000 + b"e]("
        + b"h\x01" * 1_000 + b"e.",
        "list that holds itself": b"]q\x00h\x00a.",
        "dictionary that holds itself": b"}q\x00K\x01h\x00s.",
        "array that holds itself": array_program(
            b"q\x09(I1\n)" + dtype_program(b"O8", b"(I3\nS'|'\nNNNI-1\nI-1\nI63\nt") + b"I00\n](h\x09et"
        ),
        "one hash for all": b"}(" + b"".join(
            b"\x8a\x20" + (n * (2**61 - 1)).to_bytes(32, "little") + b"N" for n in range(2**190, 2**190 + 99)
        ) + b"u.",
        "a name left over": b"cnumpy\nndarray\n.",
        "a half made array": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR.",
        "a dtype as a value": pickle.dumps({"a": np.dtype("f8")}),
    }  # fmt: skip


def _torch_lies() -> dict[str, bytes]:
    """Tensors that are not what they say."""
    whole = pickle.dumps(torch.arange(4.0), 3)
    shape, stride = b"K\x04\x85", b"K\x01\x85"
    at = whole.rindex(shape)
    head, tail = whole[:at], whole[at:]
    large = b"J" + struct.pack("<i", 500_000_000) + b"\x85"
    return {
        "tensor that reaches outside": head + tail.replace(shape, large, 1),
        "tensor that repeats": head + tail.replace(shape, large, 1).replace(stride, b"K\x00\x85", 1),
        "tensor with long steps": head + tail.replace(stride, b"J" + struct.pack("<i", 2**30) + b"\x85", 1),
        "tensor that starts outside": head[:-2] + b"K\x09" + tail,
        "storage of another length": whole.replace(b"K\x04Nt", b"K\x05Nt", 1),
        "storage in a storage": pickle.dumps(
            Calls(
                torch.storage._load_from_bytes, pickle.dumps(Calls(torch.storage._load_from_bytes, whole), 2)
            ),
            2,
        ),
    }
