"""Files of torch.save come back as torch gives them; others are refused in words, within bounds."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from safa.errors import UserError
from safa.unpickle.torch_file import load_torch_file
from safa.unpickle.zip_records import _END
from tests.fuzz.pickle_samples import Calls

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT.parent / "shared" / "weights"
DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
    torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


def saved(value: Any, legacy: bool = False, protocol: int = 2) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def load(data: bytes, folder: Path) -> Any:
    path = folder / "file.pth"
    path.write_bytes(data)
    return load_torch_file(path)


def refusal(data: bytes, folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(data, folder)
    line = str(caught.value)
    assert line.startswith(f"{folder / 'file.pth'}: ")
    assert "\n" not in line
    assert line.isascii()
    return line


def as_bits(tensor: torch.Tensor) -> bytes:
    flat = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor).reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def assert_same(ours: Any, theirs: Any) -> None:
    """Bit for bit, with the same types, steps and order of keys."""
    if isinstance(theirs, torch.Tensor):
        assert type(ours) is torch.Tensor
        assert not ours.requires_grad
        assert (ours.dtype, ours.shape, ours.stride()) == (theirs.dtype, theirs.shape, theirs.stride())
        assert ours.storage_offset() == theirs.storage_offset()
        assert ours.untyped_storage().nbytes() == theirs.untyped_storage().nbytes()
        assert as_bits(ours) == as_bits(theirs)
        return
    if isinstance(theirs, torch.Size):
        theirs = tuple(theirs)
    assert type(ours) is type(theirs)
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        ours, theirs = list(ours.values()), list(theirs.values())
    if isinstance(theirs, list | tuple):
        assert len(ours) == len(theirs)
        for pair in zip(ours, theirs, strict=True):
            assert_same(*pair)
    elif isinstance(theirs, float):
        assert struct.pack("d", ours) == struct.pack("d", theirs)
    else:
        assert ours == theirs


def by_torch(data: bytes, weights_only: bool = True) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about protocols over 2
        return torch.load(io.BytesIO(data), weights_only=weights_only)


# ---- what is read reads as torch reads it ------------------------------------------------------------------


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """All types and bit patterns; slices with an offset, steps, other orders of dimensions, none at all."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    size = int(torch.Size(shape).numel())
    chance = random.Random(draw(st.integers(0, 2**32)))
    if dtype is torch.bool:
        flat = torch.tensor([chance.random() < 0.5 for _ in range(size)], dtype=torch.bool)
    else:
        flat = torch.frombuffer(bytearray(chance.randbytes(size * dtype.itemsize) or b"\0" * 8), dtype=dtype)
    tensor = flat[:size].clone().reshape(shape)
    if shape:
        tensor = tensor.permute(draw(st.permutations(range(len(shape)))))
        start, step = draw(st.integers(0, 2)), draw(st.integers(1, 3))
        tensor = tensor[start::step]
    return tensor


@st.composite
def values(draw: st.DrawFn) -> Any:
    shared = draw(st.lists(tensors(), min_size=1, max_size=3))
    views = st.sampled_from(shared).map(lambda tensor: tensor[1:] if tensor.ndim else tensor)
    leaves = (
        tensors()
        | st.sampled_from(shared)
        | views
        | st.builds(torch.Size, st.lists(st.integers(0, 2**40), max_size=3))
        | st.none()
        | st.booleans()
        | st.integers(-(2**70), 2**70)
        | st.floats()
        | st.text(max_size=5)
    )
    keys = st.text(max_size=8) | st.integers(0, 300)
    inner = st.recursive(
        leaves,
        lambda parts: (
            st.lists(parts, max_size=3)
            | st.tuples(parts, parts)
            | st.dictionaries(keys, parts, max_size=4)
            | st.dictionaries(keys, parts, max_size=4).map(OrderedDict)
        ),
        max_leaves=10,
    )
    return draw(st.dictionaries(keys, inner, max_size=5))


@settings(deadline=None, max_examples=200)
@given(values(), st.booleans(), st.sampled_from([2, 2, 3, 4, 5]))
def test_what_torch_saved_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, value: Any, legacy: bool, protocol: int
) -> None:
    data = saved(value, legacy, protocol)
    theirs = by_torch(data, weights_only=protocol < 4)  # its careful reader does not know the others
    assert_same(load(data, tmp_path_factory.getbasetemp()), theirs)


@pytest.mark.parametrize("legacy", [False, True])
def test_the_state_of_a_network_and_its_optimiser(legacy: bool, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU())
    adam = torch.optim.Adam(network.parameters())
    network(torch.randn(2, 3, 8, 8)).sum().backward()
    adam.step()
    content = {"net": network.state_dict(), "optimizer": adam.state_dict(), "epoch": 3}
    data = saved(content, legacy)
    ours = load(data, tmp_path)
    assert_same(ours, by_torch(data))
    assert not hasattr(ours["net"], "_metadata")
    network.load_state_dict(ours["net"])
    adam.load_state_dict(ours["optimizer"])


@pytest.mark.parametrize("legacy", [False, True])
def test_parameters_are_tensors(legacy: bool, tmp_path: Path) -> None:
    back = load(saved({"a": nn.Parameter(torch.ones(2))}, legacy), tmp_path)
    assert_same(back, {"a": torch.ones(2)})


@pytest.mark.parametrize("legacy", [False, True])
def test_shared_numbers_stay_shared(legacy: bool, tmp_path: Path) -> None:
    whole = torch.arange(10.0)
    a, b, c = load(saved([whole, whole[2:], torch.arange(3.0)], legacy), tmp_path)
    a[2] = 7
    assert b[0] == 7
    assert a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    assert a.untyped_storage().data_ptr() != c.untyped_storage().data_ptr()


def test_the_other_byte_order(tmp_path: Path) -> None:
    content = {str(dtype): torch.arange(-3, 3).to(dtype) for dtype in DTYPES}
    plain = saved(content)
    changed = rewritten(
        plain,
        lambda name, data: {"byteorder": b"big"}.get(name, swapped(name, data, content)),
    )
    assert_same(load(changed, tmp_path), by_torch(plain))
    assert_same(by_torch(changed), by_torch(plain))


def swapped(name: str, data: bytes, content: dict[str, torch.Tensor]) -> bytes:
    if not name.startswith("data/"):
        return data
    size = list(content.values())[int(name[5:])].dtype.itemsize
    return b"".join(data[at : at + size][::-1] for at in range(0, len(data), size))


@pytest.mark.parametrize("name", ["blazeface.pth", "blazefaceback.pth"])
def test_published_weights(name: str, tmp_path: Path) -> None:
    if not WEIGHTS.is_dir():
        pytest.skip("../shared/weights is not here")
    assert_same(load_torch_file(WEIGHTS / name), by_torch((WEIGHTS / name).read_bytes()))


def test_a_file_of_python_2_and_torch_0_3(tmp_path: Path) -> None:
    """Strings are bytes, tensors have no gradients to mention, shapes are torch.Size, keys are addresses."""
    storage = b"(U\x07storagectorch\nFloatStorage\nU\x03123U\x06cuda:0K\x04NtQ"
    size, steps = b"ctorch\nSize\n(K\x02K\x02t\x85R", b"(K\x02K\x01t"
    tensor = b"ctorch._utils\n_rebuild_tensor\n(" + storage + b"K\x00" + size + steps + b"tR"
    data = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    data += b"\x80\x02}U\x01aX\x01\x00\x00\x00bs.".replace(b"X\x01\x00\x00\x00b", tensor)
    data += b"\x80\x02]U\x03123a." + struct.pack("<q4f", 4, 1, 2, 3, 4)
    assert_same(load(data, tmp_path), {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]])})


def test_zip_archives_with_long_numbers(tmp_path: Path) -> None:
    """Files over 4 GiB, and those of newer torch, have a second end record of 64-bit numbers."""
    plain = saved({"a": torch.arange(3)})
    *_, count, length, start, _ = _END.unpack(plain[-22:])
    at = start + length
    long = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 798, 45, 0, 0, count, count, length, start)
    long += struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
    for numbers in ((count, length, start), (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)):
        end = _END.pack(b"PK\x05\x06", 0, 0, numbers[0], numbers[0], *numbers[1:], 0)
        assert_same(load(plain[:at] + long + end, tmp_path), {"a": torch.arange(3)})


def test_entries_with_long_numbers(tmp_path: Path) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved({"a": torch.arange(3)}))) as old, zipfile.ZipFile(file, "w") as new:
        for info in old.infolist():
            with new.open(info.filename, "w", force_zip64=True) as record:
                record.write(old.read(info))
    data = bytearray(file.getvalue())
    at = data.rindex(b"PK\x01\x02")  # the last entry: its sizes as 64-bit numbers
    packed, size, name_length, extra_length = struct.unpack_from("<2L2H", data, at + 20)
    struct.pack_into("<2L2H", data, at + 20, 0xFFFFFFFF, 0xFFFFFFFF, name_length, extra_length + 20)
    end = at + 46 + name_length + extra_length
    data[end:end] = struct.pack("<2H2Q", 1, 16, size, packed)
    struct.pack_into("<L", data, len(data) - 10, struct.unpack_from("<L", data, len(data) - 10)[0] + 20)
    assert_same(load(bytes(data), tmp_path), {"a": torch.arange(3)})


# ---- what a file is ----------------------------------------------------------------------------------------


def rewritten(data: bytes, change: Callable[[str, bytes], bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """An archive with other content in its records."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", method) as new:
        for info in old.infolist():
            folder, _, name = info.filename.partition("/")
            new.writestr(f"{folder}/{name}", change(name, old.read(info)))
    return file.getvalue()


def archive(records: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as new:
        for name, content in records.items():
            new.writestr(name, content)
    return file.getvalue()


SMALL = {"a": torch.arange(300.0), "b": torch.zeros(3, dtype=torch.int64)}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 859342\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is an empty file"),
        (bytes(5000), "begins with zeros: a download that was never finished"),
        (LFS, "is a Git LFS pointer, not the file it stands for. Run: git lfs pull."),
        (b"\n<!DOCTYPE html><html><head>" + b"x" * 999, "is an HTML page. A download saved the page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is an XML page"),
        ("\ufeff<HTML lang='fr'>\u00e9".encode(), "is an HTML page"),
        (("\u20ac" * 300).encode(), "is a text file"),
        (b"hello", "is a text file, not weights of PyTorch"),
        (b"\xff\xd8\xff\xe0" + b"\xaa" * 100, "is a picture. Check the path"),
        (b"\x89PNG\r\n\x1a\n" + b"\xaa" * 100, "is a picture"),
        (b"\0\0\0\x20ftypisom" + b"\xaa" * 100, "is a video or a picture"),
        (b"\x1a\x45\xdf\xa3" + b"\xaa" * 100, "is a video"),
        (b"\x1f\x8b\x08" + b"\xaa" * 100, "is a gzip archive. Unpack it"),
        (b"a/b".ljust(257, b"\0") + b"ustar\x0000" + bytes(300), "is a tar archive"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
        (b"\x40" + bytes(7) + b'{"a":{"dtype":"F32"' + bytes(50), "is a safetensors file. Give it"),
        (archive({"x.npy": b"1"}), r"is a zip archive, but not one of torch.save"),
        (archive({"m/constants.pkl": b"", "m/code/x.py": b""}), "is a TorchScript archive"),
        (saved(SMALL)[:-700], "it was cut"),
        (saved(SMALL)[:40], "it was cut"),
        (saved(SMALL) + b"more", "something was added"),
        (saved(SMALL, legacy=True)[:-5], "it ends before the numbers of its tensors do"),
        (saved(SMALL, legacy=True)[:-1225], "it ends before the numbers of its tensors do"),
        (saved(SMALL, legacy=True)[:200], "it ends too early"),
        (saved(SMALL, legacy=True)[:7], "it ends too early"),
        (pickle.dumps(SMALL["a"].tolist(), 2), "a pickle that is not in the layout of torch"),
        (bytes(range(256)) * 4, "is no step of a pickle"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)  # fmt: skip
def test_another_file_is_named(data: bytes, message: str, tmp_path: Path) -> None:
    assert message in refusal(data, tmp_path)


def test_a_real_torchscript_archive_is_named(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have other formats
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "file.pth")
    assert "is a TorchScript archive" in refusal((tmp_path / "file.pth").read_bytes(), tmp_path)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_torch_file(tmp_path / "nothing.pth")
    with pytest.raises(UserError, match="is not a file"):
        load_torch_file(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is not a file"):
        load_torch_file(tmp_path / "pipe")


# ---- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (nn.Linear(2, 2), "which is not plain data"),
        ({"x": Calls(os.system, "true")}, "it asks for posix.system"),
        ({"x": torch.zeros(2, dtype=torch.complex64)}, "it asks for torch.ComplexFloatStorage"),
        ({"x": torch.zeros(2).to_sparse()}, "_rebuild_sparse_tensor"),
        ({"x": torch.zeros(1).expand(5)}, "a tensor that repeats its numbers"),
        ({"x": torch.zeros(6).as_strided((3, 3), (1, 1))}, "a tensor that repeats its numbers"),
        ({"x": torch.zeros(2).untyped_storage()}, "which is not plain data"),
        ({"x": torch.float32}, "it asks for torch.float32"),
        ({(1, 2): 3}, "it uses tuple as a key"),
    ],
)
def test_other_content_is_named(value: Any, message: str, legacy: bool, tmp_path: Path) -> None:
    assert message in refusal(saved(value, legacy), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, data: data[:-1] if name == "data/0" else data, "a storage of two lengths"),
        (lambda name, data: b"middle" if name == "byteorder" else data, "a byte order that is none"),
        (lambda name, data: b"x" * 99 if name == "byteorder" else data, "its record byteorder has 99 bytes"),
        (lambda name, data: data.replace(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009"), "lacks the record"),
        (lambda name, data: data.replace(b"X\x01\x00\x00\x001", b"X\x01\x00\x00\x000"), "of two types"),
    ],
)
def test_lying_archives(change: Callable[[str, bytes], bytes], message: str, tmp_path: Path) -> None:
    assert message in refusal(rewritten(saved(SMALL), change), tmp_path)


def test_records_are_stored_in_one_folder_once(tmp_path: Path) -> None:
    packed = rewritten(saved(SMALL), lambda name, data: data, zipfile.ZIP_DEFLATED)
    assert "its record archive/data.pkl is compressed" in refusal(packed, tmp_path)
    folders = archive({"a/data.pkl": b"N.", "b/data/0": b""})
    assert "do not lie in one folder" in refusal(folders, tmp_path)
    twice = archive({"a/data.pkl": b"N.", "a/data.pk_": b"K\x01."}).replace(b"data.pk_", b"data.pkl")
    assert "it holds two records data.pkl" in refusal(twice, tmp_path)
    sharing = bytearray(archive({"a/data.pkl": b"N.", "a/data/0": b"x" * 600, "a/data/1": b"y" * 9}))
    at = sharing.rindex(b"PK\x01\x02")
    struct.pack_into("<2L", sharing, at + 20, 609, 609)
    assert "share their bytes" in refusal(bytes(sharing), tmp_path)


def test_too_many_records(tmp_path: Path) -> None:
    end = _END.pack(b"PK\x05\x06", 0, 0, 0, 0, 0, 0, 0)
    count = 1 << 18
    long = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 798, 45, 0, 0, count, count, 0, 4)
    long += struct.pack("<4sLQL", b"PK\x06\x07", 0, 4, 1)
    assert f"it holds {count} records" in refusal(b"PK\x03\x04" + long + end, tmp_path)


# Hostile files are read in one child that has little memory; a crash ends it, and shows in what it printed.
_CHILD = """
import json, pathlib, random, resource, sys, time
from safa.errors import UserError
from safa.unpickle.torch_file import load_torch_file
from tests.fuzz.pickle_samples import assert_plain
pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 192 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

def attempt(path, name):
    started = time.process_time()
    try:
        value = load_torch_file(path)
        assert_plain(value)
        outcome = "read: " + type(value).__name__
        del value
    except UserError as error:
        outcome = str(error)
    except BaseException as error:
        outcome = "FAILED " + repr(error)
    print(json.dumps([name, outcome, time.process_time() - started]), flush=True)

def changed(data, chance):
    if chance.random() < 0.2:
        return data[: chance.randrange(len(data))]
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        near = chance.choice((len(data), min(len(data), 2000), min(len(data), 25000)))
        at = chance.choice((chance.randrange(near), len(data) - 1 - chance.randrange(near)))
        data[at] = chance.choice((data[at] ^ 1 << chance.randrange(8), chance.randrange(256), 255))
    return data

folder, seeds = pathlib.Path(sys.argv[1]), int(sys.argv[2])
for path in sorted(folder.iterdir()):
    if not seeds:
        attempt(path, path.name)
    whole = path.read_bytes() if seeds else b""
    for seed in range(seeds):
        path.write_bytes(changed(whole, random.Random(seed)))
        attempt(path, f"{path.name} {seed}")
"""


def outcomes(files: dict[str, bytes], folder: Path, seeds: int = 0) -> dict[str, str]:
    """What reading gives: of each file, or of as many changed copies of it as there are seeds."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    command = [sys.executable, "-c", _CHILD, str(folder), str(seeds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stdout[-300:], done.stderr[-2000:])
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(files) * max(seeds, 1)
    assert max(seconds for _, _, seconds in rows) < 10
    return {name: outcome for name, outcome, _ in rows}


MAGIC = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))


def storage_program(key: str, count: int) -> bytes:
    name = struct.pack("<I", len(key)) + key.encode()
    count_program = b"J" + struct.pack("<i", count)
    return b"(X\x07\0\0\0storagectorch\nFloatStorage\nX" + name + b"X\x03\0\0\0cpu" + count_program + b"tQ"


def views_program(views: int, count: int) -> bytes:
    """A list of so many tensors of one storage, five bytes each."""
    size = b"J" + struct.pack("<i", count) + b"\x85"
    tensor = (
        b"ctorch._utils\n_rebuild_tensor\nq\0(" + storage_program("0", count) + b"K\0" + size + b"K\x01\x85t"
    )
    return b"\x80\x02](" + tensor + b"q\x01R" + b"h\0h\x01R" * views + b"e."


def hostile_files() -> dict[str, bytes]:
    """Files that end torch's reader, or fill the machine."""
    deep = b"\x80\x02})" + b"\x85" * 200_000 + b"Ns."
    plain, legacy = saved({"a": torch.zeros(4)}), saved({"a": torch.zeros(4)}, legacy=True)
    shape, steps = b"K\x04\x85", b"K\x01\x85"
    large = b"J" + struct.pack("<i", 500_000_000) + b"\x85"

    def with_pickle(data: bytes) -> bytes:
        return rewritten(plain, lambda name, old: data if name == "data.pkl" else old)

    def outside(old: bytes) -> bytes:
        return old.replace(shape, large, 1)

    def repeats(old: bytes) -> bytes:
        return outside(old).replace(steps, b"K\x00\x85", 1)

    def long(old: bytes) -> bytes:
        return old.replace(b"K\x04tq", b"J\xff\xff\xff\x7ftq").replace(b"K\x04Ntq", b"J\xff\xff\xff\x7fNtq")

    zeros = saved({"a": torch.zeros(64 << 20, dtype=torch.uint8)})
    return {
        "deep key": with_pickle(deep),
        "deep key, legacy": MAGIC + deep + b"\x80\x02].",
        "deep value": with_pickle(b"\x80\x02)" + b"\x85" * 200_000 + b"."),
        "inflates": rewritten(zeros, lambda name, old: old, zipfile.ZIP_DEFLATED),
        "repeats": rewritten(plain, lambda name, old: repeats(old)),
        "repeats, legacy": repeats(legacy),
        "reaches outside": rewritten(plain, lambda name, old: outside(old)),
        "reaches outside, legacy": outside(legacy),
        "long storage": rewritten(plain, lambda name, old: long(old)),
        "long storage, legacy": long(legacy),
        "many views": archive({"a/data.pkl": views_program(100_000, 1 << 20), "a/data/0": bytes(4 << 20)}),
        "many tensors": archive({"a/data.pkl": views_program(2_000_000, 0), "a/data/0": b""}),
        "many storages, legacy": MAGIC + b"\x80\x02]("
        + b"".join(storage_program(str(n), 0) for n in range(100_000)) + b"e.\x80\x02].",
        "key outside": with_pickle(b"\x80\x02" + storage_program("../data.pkl", 1) + b"."),
        "a storage as a value": archive({"a/data.pkl": storage_program("0", 1) + b".", "a/data/0": b"1234"}),
        "keys that were not named, legacy": legacy[: legacy.rindex(b"\x80\x02]")] + b"\x80\x02].",
        "a torch file as bytes": with_pickle(pickle.dumps(torch.zeros(3), 2)),
    }  # fmt: skip


def test_hostile_files_are_refused_in_one_line(tmp_path: Path) -> None:
    for name, outcome in outcomes(hostile_files(), tmp_path).items():
        line = outcome.removeprefix(f"{tmp_path / name}: ")
        assert line.startswith(("refused to unpickle: ", "not a readable PyTorch file (")), (name, outcome)
        assert "Error" not in line, (name, outcome)
        assert "\n" not in line
        assert line.isascii()


def test_changed_files_are_read_or_refused(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()
    files = {"small": saved(network), "small legacy": saved(network, legacy=True)}
    if WEIGHTS.is_dir():
        files |= {name: (WEIGHTS / name).read_bytes() for name in ("blazeface.pth", "blazefaceback.pth")}
    found = outcomes(files, tmp_path, seeds=300)
    for name, outcome in found.items():
        assert outcome.startswith(("read: ", str(tmp_path))), (name, outcome)
        assert "\n" not in outcome
        assert outcome.isascii()
    assert any(outcome.startswith("read: ") for outcome in found.values())


def test_memory_is_that_of_the_numbers(tmp_path: Path) -> None:
    """The child has 192 MiB beside its imports; a copy of these 120 MiB would not fit."""
    content = {str(n): torch.zeros(15 << 20, dtype=torch.uint8) for n in range(8)}
    for legacy in (False, True):
        data = saved(content, legacy)
        folder = tmp_path / str(legacy)
        folder.mkdir()
        assert outcomes({"large": data}, folder) == {"large": "read: dict"}


def test_torchs_own_reader_is_not_used() -> None:
    reader = "torch" + ".load("
    using = [str(path) for path in (ROOT / "safa").rglob("*.py") if reader in path.read_text()]
    assert not using


# ---- checksums ---------------------------------------------------------------------------------------------


def test_numbers_that_changed_on_the_way_are_refused(tmp_path: Path) -> None:
    data = bytearray(saved({"a": torch.arange(64.0)}))
    place = data.index(torch.arange(64.0).numpy().tobytes())
    data[place + 100] ^= 1
    assert "its bytes are not those that were written (CRC-32)" in refusal(bytes(data), tmp_path)
    data[place + 100] ^= 1
    load(bytes(data), tmp_path)
    key = data.index(b"data.pkl") + data[data.index(b"data.pkl") :].index(b"X\x01\x00\x00\x00a") + 5
    data[key] = ord("b")
    assert "(CRC-32)" in refusal(bytes(data), tmp_path)


def test_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        data = saved({"a": torch.arange(64.0)})
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(load(data, tmp_path)["a"], torch.arange(64.0))
