"""Hostile files for each reader: every one is read, or refused in one line, with little memory and no trace.

Each reader gets a file that it reads, and then the same file spoiled in all the ways of ``MUTATIONS``. A file
that is still readable is no failure: what counts is that nothing but the one-line errors comes out, that no
more memory is taken than the file can justify, and that nothing is written.
"""

from __future__ import annotations

import gzip
import io
import os
import random
import re
import resource
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from safa.data.clip_store import ClipStore
from safa.data.shards import read_index_file, read_manifest
from tests.fuzz.changes import changed
from tests.hostile.readers import READERS, Reader, refusal

MEMORY = 400 * 2**20  # bytes that one small file may take at most
OPTIONAL = {"people.parquet"}  # that a folder may lack


# ---- what is done to a file --------------------------------------------------------------------------------


def _cut(share: float) -> Callable[[bytes], bytes]:
    return lambda data: data[: int(len(data) * share)]


def _flipped(seed: int, count: int) -> Callable[[bytes], bytes]:
    def flip(data: bytes) -> bytes:
        rng, spoiled = random.Random(seed), bytearray(data)
        for _ in range(min(count, len(data))):
            spoiled[rng.randrange(len(spoiled))] = rng.randrange(256)
        return bytes(spoiled)

    return flip


def _huge(width: int) -> Callable[[bytes], bytes]:
    """Numbers near the start, where sizes stand, become as large as they can be."""

    def enlarge(data: bytes) -> bytes:
        spoiled = bytearray(data)
        for at in range(4, min(len(data), 256) - width, 24):
            spoiled[at : at + width] = b"\x7f" + b"\xff" * (width - 1)
        return bytes(spoiled)

    return enlarge


def _numbers(new: bytes) -> Callable[[bytes], bytes]:
    """Each decimal number of a text becomes another."""

    def replace(data: bytes) -> bytes:
        return re.sub(rb"[0-9]+", new, data)

    return replace


def _zip_of_zeros() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("archive/data.pkl", "canvas.npy", "a.npy"):
            archive.writestr(name, bytes(2**28))  # 256 MiB that are 256 KiB
    return buffer.getvalue()


ZIP_OF_ZEROS = _zip_of_zeros()
HTML = b"<!doctype html>\n<html><head><title>Sign in</title></head><body>404</body></html>\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 132735\n"
MUTATIONS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "one byte": lambda data: data[:1],
    "first eighth": _cut(0.125),
    "first half": _cut(0.5),
    "all but the end": lambda data: data[:-7],
    "without its start": lambda data: data[5:],
    "twice": lambda data: data + data,
    "backwards": lambda data: data[::-1],
    "one byte changed": _flipped(1, 1),
    "eight bytes changed": _flipped(2, 8),
    "a tenth changed": lambda data: _flipped(3, max(1, len(data) // 10))(data),
    "noise": lambda data: random.Random(4).randbytes(len(data)),
    "zeros": lambda data: bytes(len(data)),
    "ones": lambda data: b"\xff" * len(data),
    "huge sizes of 4 bytes": _huge(4),
    "huge sizes of 8 bytes": _huge(8),
    "numbers of 400 digits": _numbers(b"9" * 400),
    "numbers beyond range": _numbers(b"1e400"),
    "negative numbers": _numbers(b"-1"),
    "numbers that are none": _numbers(b"NaN"),
    "NUL in the middle": lambda data: data[: len(data) // 2] + b"\0" + data[len(data) // 2 :],
    "a web page": lambda _: HTML,
    "a pointer of Git LFS": lambda _: POINTER,
    "nested brackets": lambda _: b"[" * 100_000,
    "a zip of zeros": lambda _: ZIP_OF_ZEROS,
    "compressed once more": gzip.compress,
    "a pickle with a huge index": lambda _: b"\x80\x02Nr\xff\xff\xff\x7f.",
    "a zlib stream of zeros": lambda _: zlib.compress(bytes(2**27)),
}


# ---- the tests ---------------------------------------------------------------------------------------------


@contextmanager
def little_memory() -> Iterator[None]:
    """Fail if the block makes this process larger than it was by more than ``MEMORY``."""
    before = _peak(reset=True)
    yield
    assert _peak() - before < MEMORY, "it took too much memory"


def _peak(*, reset: bool = False) -> int:
    """The most bytes that this process has had in memory, since the last reset where that can be."""
    if reset:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_spoiled_file_is_read_or_refused_in_one_line(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "in" / reader.name
    path.parent.mkdir(parents=True)
    reader.write(path)
    data = path.read_bytes()
    assert not refusal(lambda: reader.read(path)), "it reads its own file"
    refused = 0
    mutations = [*MUTATIONS.values()][:: 3 if reader.is_slow else 1]
    for spoil in mutations:
        path.write_bytes(spoil(data))
        with little_memory():
            refused += bool(refusal(lambda: reader.read(path)))
        assert [*path.parent.iterdir()] == [path], "nothing is written"
    assert refused >= len(mutations) // 3
    assert [*tmp_path.iterdir()] == [tmp_path / "in"]


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_file_changed_at_random_is_read_or_refused_in_one_line(reader: Reader, tmp_path: Path) -> None:
    """A little of what ``tests/fuzz/reader_target.py`` does for hours."""
    path = tmp_path / reader.name
    path.parent.mkdir(parents=True, exist_ok=True)
    reader.write(path)
    data, chance = path.read_bytes(), random.Random(reader.name)
    for _ in range(reader.changes):
        path.write_bytes(changed(chance, [data]))
        refusal(lambda: reader.read(path))


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "zero", "loop"])
def test_what_is_no_file_is_refused_at_once(reader: Reader, kind: str, tmp_path: Path) -> None:
    path = tmp_path / reader.name
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    with little_memory():
        line = refusal(lambda: reader.read(path))
    assert line or reader.name in OPTIONAL


def _spoil_dataset(folder: Path, what: str, spoil: Callable[[bytes], bytes]) -> None:
    (file,) = (folder / what).iterdir() if (folder / what).is_dir() else (folder / what,)
    file.write_bytes(spoil(file.read_bytes()))


def _read_dataset(folder: Path) -> None:
    read_manifest(folder)
    store = ClipStore(folder)
    for clip in store.clips():
        # Their callers know these two kinds: the clip or the pair is counted as damaged.
        with suppress(OSError, ValueError):
            store.frames(clip.number, range(clip.n_frames))
        with suppress(OSError, ValueError):
            store.landmarks(clip.number)


@pytest.mark.parametrize("what", ["index", "shards"])
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_spoiled_data_set_is_read_or_refused_in_one_line(
    what: str,
    mutation: str,
    tmp_path: Path,
    write_clips: Callable[..., Path],
    clip_row: Callable[..., dict[str, Any]],
) -> None:
    folder = write_clips(tmp_path / "clips", [clip_row("ann", "train")])
    assert refusal(lambda: _read_dataset(folder)) == ""
    _spoil_dataset(folder, what, MUTATIONS[mutation])
    with little_memory():
        refusal(lambda: _read_dataset(folder))


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_an_index_that_is_none(mutation: str, tmp_path: Path, tiny_clips: Path) -> None:
    (index,) = (tiny_clips / "index").iterdir()
    path = tmp_path / index.name
    path.write_bytes(MUTATIONS[mutation](index.read_bytes()))
    with little_memory():
        refusal(lambda: read_index_file(path))
