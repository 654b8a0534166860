"""Hostile files for each reader: every one is read, or refused in one line, with little memory and no trace.

Each reader gets a file that it reads, and then the same file spoiled in all the ways of ``MUTATIONS``. A file
that is still readable is no failure: what counts is that nothing but the one-line errors comes out, that no
more memory is taken than the file can justify, and that nothing is written.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import random
import resource
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from safa.array_files import read_npy, read_npz
from safa.config import load_settings
from safa.config.demo import DemoConfig
from safa.config.preprocess import MetadataSource
from safa.data.clip_store import ClipStore
from safa.data.face_tracks import read_tracks
from safa.data.landmarks import read_sidecar
from safa.data.shards import read_index_file, read_manifest
from safa.data.sources import COLUMNS, list_jobs
from safa.data.video import write_video
from safa.errors import ClipError, UserError
from safa.evaluation.jobs import read_pairs
from safa.head.flame_files import read_flame_model, read_landmark_embedding, read_mask, read_texture_layout
from safa.inference.inputs import open_frame_source
from safa.inference.photos import read_photo
from safa.reading import read_json
from safa.report.content import read_clips
from safa.tables import read_table
from safa.weights import read_tensors, read_weights

MEMORY = 400 * 2**20  # bytes that one small file may take at most
ROOT = Path(__file__).parents[2]


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
        return b"".join(new if part.isdigit() else part for part in _digits(data))

    return replace


def _digits(data: bytes) -> list[bytes]:
    parts, start = [], 0
    for at in range(1, len(data)):
        if data[at : at + 1].isdigit() != data[at - 1 : at].isdigit():
            parts.append(data[start:at])
            start = at
    return [*parts, data[start:]]


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


# ---- the readers -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """One reader: ``write`` makes a file that ``read`` reads; ``name`` is the file's."""

    name: str
    write: Callable[[Path], object]
    read: Callable[[Path], object]


def _text(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


def _npy(*shape: int) -> Callable[[Path], object]:
    return lambda path: np.save(path, np.ones(shape, np.float32))


def _pickled(value: Any) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(pickle.dumps(value, protocol=2))


def _flame() -> dict[str, Any]:
    count = 8
    return {
        "v_template": np.ones((count, 3)),
        "f": np.zeros((4, 3), np.uint32),
        "shapedirs": np.ones((count, 3, 400)),
        "posedirs": np.ones((count, 3, 36)),
        "J_regressor": np.ones((5, count)),
        "kintree_table": np.array([[4294967295, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
        "weights": np.ones((count, 5)),
    }


def _embedding() -> dict[str, Any]:
    shapes = {"static_lmk": (51,), "dynamic_lmk": (79, 17), "full_lmk": (1, 68)}
    faces = {f"{name}_faces_idx": np.zeros(shape, np.int64) for name, shape in shapes.items()}
    return faces | {f"{name}_bary_coords": np.ones((*shape, 3)) for name, shape in shapes.items()}


def _write_embedding(path: Path) -> None:
    np.save(path, np.array(_embedding(), dtype=object), allow_pickle=True)


def _write_safetensors(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a.weight": torch.ones(3, 4), "b": torch.zeros(2, dtype=torch.int64)}, path)


def _write_parquet(path: Path) -> None:
    columns = {"mode": ["animation"], "source_id": ["a"], "driving_id": ["b"], "folder": ["c"]}
    pq.write_table(pa.table(columns | {"psnr": [20.0]}), path)


def _write_picture(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def _write_movie(path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (6, 64, 64, 3), np.uint8)
    write_video(path, frames, 25.0)


def _read_movie(path: Path) -> int:
    return sum(1 for _ in open_frame_source(path).frames())


def _write_list(path: Path) -> None:
    row = ["WMh3ye5tBsE", "10", "60", "624-48-1018-553", "25", "1280", "720", "train", "id10005"]
    path.write_text("\n".join(",".join(line) for line in ([*COLUMNS], row, row)) + "\n")


def _read_list(path: Path) -> object:
    return list_jobs(MetadataSource(kind="metadata", csv=path, videos=path.parent))


TRACKS = {"video": "v", "segments": [], "width": 64, "height": 64, "fps": 25.0}
SETTINGS = (ROOT / "configs" / "smoke" / "demo.yaml").read_text()
READERS = [
    Reader("demo.yaml", _text(SETTINGS), lambda path: load_settings(path, DemoConfig)),
    Reader("list.csv", _write_list, _read_list),
    Reader("pairs.csv", _text("source,driving\na,b\nb,a\n"), lambda path: read_pairs(path, {"a", "b"})),
    Reader("v.landmarks.npy", _npy(5, 68, 2), lambda path: np.array(read_sidecar(path.with_name("v.mp4")))),
    Reader(
        "v.pkl",
        _pickled({n: {"ldmk": np.ones((68, 2))} for n in range(4)}),
        lambda path: read_sidecar(path.with_name("v.mp4")),
    ),
    Reader("a.npy", _npy(4, 4), read_npy),
    Reader("a.npz", lambda path: np.savez(path, a=np.ones(9)), lambda path: read_npz(path, ["a"])),
    Reader("generic_model.pkl", _pickled(_flame()), read_flame_model),
    Reader("landmark_embedding.npy", _write_embedding, read_landmark_embedding),
    Reader("new.pth", lambda path: torch.save({"a": torch.ones(3, 4)}, path), read_weights),
    Reader(
        "old.pth",
        lambda path: torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False),
        read_weights,
    ),
    Reader("a.safetensors", _write_safetensors, read_tensors),
    Reader("head.obj", _text("vt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n"), read_texture_layout),
    Reader("mask.png", _write_picture, read_mask),
    Reader("photo.png", _write_picture, read_photo),
    Reader("photo.jpg", _write_picture, read_photo),
    Reader("photo.webp", _write_picture, read_photo),
    Reader("photo.gif", _write_picture, read_photo),
    Reader("video.mp4", _write_movie, _read_movie),
    Reader("video.mkv", _write_movie, _read_movie),
    Reader("clips.parquet", _write_parquet, read_clips),
    Reader("table.parquet", _write_parquet, read_table),
    Reader("a.json", _text(json.dumps({"a": [1, 2.5, "x"]})), read_json),
    Reader("tracks.json", _text(json.dumps(TRACKS)), read_tracks),
]


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


def refusal(read: Callable[[], object]) -> str:
    """What is said of a file, "" if it can be read; any other error goes through."""
    try:
        read()
    except (UserError, ClipError) as error:
        line = str(error)
        assert line.isprintable(), line  # so it is one line, too
        assert len(line) < 1000
        return line
    return ""


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_a_spoiled_file_is_read_or_refused_in_one_line(reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "in" / reader.name
    path.parent.mkdir()
    reader.write(path)
    data = path.read_bytes()
    assert not refusal(lambda: reader.read(path)), "it reads its own file"
    refused = 0
    for spoil in MUTATIONS.values():
        path.write_bytes(spoil(data))
        with little_memory():
            refused += bool(refusal(lambda: reader.read(path)))
        assert [*path.parent.iterdir()] == [path], "nothing is written"
    assert refused >= len(MUTATIONS) // 3
    assert [*tmp_path.iterdir()] == [path.parent]


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "zero", "loop"])
def test_what_is_no_file_is_refused_at_once(reader: Reader, kind: str, tmp_path: Path) -> None:
    path = tmp_path / reader.name
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
    assert line


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
