"""Files that are what they say and lie all the same: values, counts, sizes and names that nobody has."""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import time
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from safa.array_files import read_npy, read_npz
from safa.checkpoint.native import load_model, save_model
from safa.config import load_settings
from safa.config.demo import DemoConfig
from safa.config.preprocess import MetadataSource
from safa.data.columns import MANIFEST, column_names, read_column
from safa.data.face_tracks import read_tracks
from safa.data.images import ImageFolder
from safa.data.landmarks import read_sidecar
from safa.data.people import read_people
from safa.data.sources import list_jobs
from safa.data.video import probe, read_frames
from safa.errors import UserError
from safa.evaluation.jobs import read_pairs
from safa.files import check_output
from safa.head.flame_files import read_texture_layout
from safa.inference.inputs import open_frame_source
from safa.inference.loading import open_model
from safa.inference.photos import read_photo
from safa.limits import VARIABLE
from safa.reading import read_json
from safa.report.content import read_clips
from safa.tables import read_table
from safa.weights import read_tensors, read_weights
from tests.hostile.readers import COLUMN, PART, SETTINGS, TRACK, TRACKS, refusal
from tests.hostile.test_corpus import little_memory

Case = Callable[[Path], Callable[[], object]]  # makes files in a folder, and gives what reads them
SECONDS = 10  # that any of these may take


def _file(name: str, data: bytes | str | Callable[[], bytes], read: Callable[[Path], object]) -> Case:
    """A file; what takes long to make is given as a function."""

    def make(folder: Path) -> Callable[[], object]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = data() if callable(data) else data
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return lambda: read(path)

    return make


def _sparse(name: str, start: bytes, length: int, read: Callable[[Path], object]) -> Case:
    """A file of so many bytes that takes no room."""

    def make(folder: Path) -> Callable[[], object]:
        with (folder / name).open("wb") as file:
            file.write(start)
            file.truncate(length)
        return lambda: read(folder / name)

    return make


# ---- photos and videos -------------------------------------------------------------------------------------


def _png(width: int, height: int, depth: int, colour: int, data: bytes, *more: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    others = b"".join(chunk(each[:4], each[4:]) for each in more)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + others + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _zeros(count: int) -> bytes:
    """So many zeros, compressed; made piece by piece."""
    packer, parts = zlib.compressobj(9), []
    for _ in range(count // 2**20):
        parts.append(packer.compress(bytes(2**20)))
    return b"".join((*parts, packer.compress(bytes(count % 2**20)), packer.flush()))


def _saved(name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, name, **options)
    return buffer.getvalue()


def _gif(frames: int) -> bytes:
    """A GIF whose first pixel is drawn so many times."""
    frame = (
        b"\x21\xf9\x04\x00\x01\x00\x00\x00\x2c" + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    )
    return b"GIF89a" + struct.pack("<2H3B", 16, 16, 0x80, 0, 0) + bytes(6) + frame * frames + b";"


def _with_exif(tag: int, value: int) -> bytes:
    exif = Image.Exif()
    exif[tag] = value
    return _saved("JPEG", exif=exif.tobytes())


def _looping_tiff() -> bytes:
    """A TIFF whose second picture is the first one again, for ever."""
    data = bytearray(_saved("TIFF"))
    first = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, first + 2 + 12 * count, first)
    return bytes(data)


def _jpeg_of(width: int, height: int) -> bytes:
    data = bytearray(_saved("JPEG"))
    at = data.index(b"\xff\xc0")
    struct.pack_into(">2H", data, at + 5, height, width)
    return bytes(data)


def _avif_of(side: int) -> bytes:
    data = bytearray(_saved("AVIF"))
    struct.pack_into(">2I", data, data.index(b"ispe") + 8, side, side)
    return bytes(data)


PHOTOS: dict[str, tuple[Case, str]] = {
    "36 megapixels of 16 bits in 70 kB": (
        _file(
            "a.png",
            lambda: _png(6000, 6000, 16, 0, _zeros(6000 * 12001)),
            lambda path: read_photo(path).pixels.shape,
        ),
        "",
    ),
    "more pixels than there are": (
        _file("a.png", _png(2**31 - 1, 2**31 - 1, 8, 2, b""), read_photo),
        "pixels=NUMBER",
    ),
    "a JPEG of four gigapixels": (_file("a.jpg", _jpeg_of(65500, 65500), read_photo), "pixels=NUMBER"),
    "an AVIF that lies about its size": (_file("a.avif", _avif_of(2**30), read_photo), "."),
    "text that unfolds": (
        _file(
            "a.png",
            lambda: _png(32, 32, 8, 2, zlib.compress(bytes(32 * 97)), b"zTXta\0\0" + _zeros(2**27)),
            read_photo,
        ),
        "not a readable photo",
    ),
    "a colour profile that unfolds": (
        _file(
            "a.png",
            lambda: _png(32, 32, 8, 2, zlib.compress(bytes(32 * 97)), b"iCCPa\0\0" + _zeros(2**27)),
            read_photo,
        ),
        "too large",
    ),
    "a GIF of a million frames as a photo": (
        _file("a.gif", lambda: _gif(10**6), read_photo),
        "is a moving picture",
    ),
    "an orientation that is none": (_file("a.jpg", _with_exif(0x0112, 99), read_photo), ""),
    "a TIFF whose next picture is itself": (_file("a.tif", _looping_tiff(), read_photo), ""),
    "a PPM of ten gigapixels": (_file("a.ppm", b"P6 99999 99999 255\n", read_photo), "pixels=NUMBER"),
    "a PPM of one number of a million digits": (
        _file("a.ppm", b"P2 16 16 255\n" + b"9" * 10**6, read_photo),
        ".",
    ),
    "a photo of a terabyte": (_sparse("a.jpg", _saved("JPEG"), 2**40, read_photo), "photo_bytes=NUMBER"),
    "PostScript": (
        _file("a.png", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", read_photo),
        "unknown format",
    ),
    "a drawing of Windows": (_file("a.png", b"\xd7\xcd\xc6\x9a" + bytes(40), read_photo), "unknown format"),
    "SVG": (_file("a.png", "<svg xmlns='http://www.w3.org/2000/svg'/>", read_photo), "unknown format"),
}


def _movie(read: Callable[[Path], object], name: str, data: bytes | str) -> Case:
    return _file(name, data, read)


def _frames(path: Path) -> int:
    return sum(1 for _ in open_frame_source(path).frames())


def _made(name: str, change: Callable[[bytearray], object], frames: int = 5) -> Case:
    """A video that was written, and then changed."""

    def make(folder: Path) -> Callable[[], object]:
        import av

        path = folder / name
        with av.open(str(path), "w") as container:
            codec = "libx264" if name.endswith(".mp4") else "libvpx"
            stream: Any = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for number in range(frames):
                picture = av.VideoFrame.from_ndarray(
                    np.full((48, 64, 3), 9 * number, np.uint8), format="rgb24"
                )
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        data = bytearray(path.read_bytes())
        change(data)
        path.write_bytes(data)
        return lambda: _frames(path)

    return make


def _set(data: bytearray, after: bytes, offset: int, value: bytes) -> None:
    at = data.index(after) + offset
    data[at : at + len(value)] = value


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"
VIDEOS: dict[str, tuple[Case, str]] = {
    "a thousand million ticks a second": (
        _made("a.mp4", lambda d: _set(d, b"mdhd", 16, struct.pack(">I", 10**9))),
        "",
    ),
    "no tick a second": (_made("a.mp4", lambda d: _set(d, b"mdhd", 16, bytes(4))), "."),
    "a picture turned by no angle": (_made("a.mp4", lambda d: _set(d, b"tkhd", 44, bytes(36))), ""),
    "a picture turned by 45 degrees": (
        _made("a.mp4", lambda d: _set(d, b"tkhd", 44, struct.pack(">5i", 46341, 46341, 0, -46341, 46341))),
        "",
    ),
    "an edit list that begins in a century": (
        _made("a.mp4", lambda d: _set(d, b"elst", 16, struct.pack(">I", 2**31 - 1))),
        ".",
    ),
    "a header of a height of 65535": (
        _made("a.mp4", lambda d: _set(d, b"avc1", 28, b"\xff\xff\xff\xff")),
        "",
    ),
    "WebM whose ticks are years": (
        _made("a.webm", lambda d: _set(d, b"\x2a\xd7\xb1\x83", 4, b"\xff\xff\xff")),
        "",
    ),
    "a GIF of four gigapixels": (
        _file("a.gif", b"GIF89a" + struct.pack("<2H3B", 65535, 65535, 0x80, 0, 0) + _gif(2)[13:], _frames),
        ".",
    ),
    "a playlist of this machine's files": (_file("a.mp4", PLAYLIST.format("/etc/passwd"), _frames), "."),
    "a playlist of the web": (_file("a.mp4", PLAYLIST.format("http://127.0.0.1:1/a.ts"), _frames), "."),
    "a list of files to join": (_file("a.mp4", "ffconcat version 1.0\nfile b.mp4\n", _frames), "."),
    "a session description": (
        _file("a.mp4", "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n", _frames),
        ".",
    ),
    "a filter as a file": (_file("a.mp4", "movie=/etc/passwd", _frames), "."),
    "Y4M of no rate": (_file("a.y4m", b"YUV4MPEG2 W16 H16 F0:0\nFRAME\n" + bytes(384), _frames), ""),
    "Y4M of a thousand million columns": (
        _file("a.y4m", b"YUV4MPEG2 W999999999 H16 F25:1\nFRAME\n", _frames),
        ".",
    ),
    "a video of a terabyte": (_sparse("a.mkv", b"\x1a\x45\xdf\xa3", 2**40, _frames), "."),
}


# ---- arrays, weights ---------------------------------------------------------------------------------------


def _npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def _npy_of(descr: str, shape: str, data: bytes = bytes(64)) -> bytes:
    return _npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}", data)


def _npz(count: int) -> bytes:
    """An archive whose directory has so many names, all of the same empty record."""
    record = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 33, 0, 0, 0, 5, 0) + b"a.npy"
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 33, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0)
    entries = (entry + b"a.npy") * count
    end = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(entries), len(record))
    place = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(record) + len(entries), 1)
    return (
        record
        + entries
        + end
        + place
        + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, *[65535] * 2, *[2**32 - 1] * 2, 0)
    )


def _safetensors(header: dict[str, Any] | str, data: bytes = b"") -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + data


def _tensor(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


ENDLESS = _safetensors({"a": _tensor("F32", [2**38], 0, 2**40)})
FACES = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 68, 2), }"


def _whole_sidecar(path: Path) -> object:
    return read_sidecar(path.with_name("v.mp4"))[:10].sum()


ARRAYS: dict[str, tuple[Case, str]] = {
    "a shape beyond all memory": (_file("a.npy", _npy_of("'<f4'", f"({2**62},)"), read_npy), "too short"),
    "a shape of 200 axes": (_file("a.npy", _npy_of("'<f4'", f"({'1,' * 30})"), read_npy), "."),
    "a negative shape": (_file("a.npy", _npy_of("'<f4'", "(-4, -4)"), read_npy), "."),
    "nothing, very often": (_file("a.npy", _npy_of("'<f4'", f"(0, {2**62})"), read_npy), "."),
    "objects": (_file("a.npy", _npy_of("'|O'", "(1,)"), read_npy), "not numbers"),
    "objects inside records": (
        _file("a.npy", _npy_of("[('a', '<f4'), ('b', '|O')]", "(1,)"), read_npy),
        "not numbers",
    ),
    "a program as a header": (_file("a.npy", _npy("__import__('os').system('touch x')"), read_npy), "."),
    "a header of brackets": (_file("a.npy", _npy("(" * 100 + ")" * 10), read_npy), "."),
    "an archive of 300,000 names": (
        _file("a.npz", lambda: _npz(300_000), lambda path: read_npz(path, ["a"])),
        "it holds 300000 records",
    ),
    "an archive of a terabyte": (
        _sparse("a.npz", b"PK\x03\x04", 2**40, lambda path: read_npz(path, ["a"])),
        "array_bytes=NUMBER",
    ),
    "landmarks of a thousand million frames": (
        _sparse("v.landmarks.npy", _npy(FACES), 2**40, _whole_sidecar),
        "",
    ),
    "weights of a terabyte": (
        _sparse("a.safetensors", ENDLESS, 2**40 + len(ENDLESS), read_tensors),
        "weights_bytes",
    ),
    "a PyTorch file of a terabyte": (_sparse("a.pth", b"PK\x03\x04", 2**40, read_weights), "weights_bytes"),
    "a header that is longer than the file": (
        _file("a.safetensors", struct.pack("<Q", 2**62) + b"{}", read_tensors),
        "cannot be read",
    ),
    "tensors that share their bytes": (
        _file(
            "a.safetensors",
            _safetensors({name: _tensor("F32", [4], 0, 16) for name in "ab"}, bytes(16)),
            read_tensors,
        ),
        "cannot be read",
    ),
    "a shape whose product is none": (
        _file(
            "a.safetensors",
            _safetensors({"a": _tensor("F32", [2**32, 2**32], 0, 16)}, bytes(16)),
            read_tensors,
        ),
        "cannot be read",
    ),
    "a header of brackets in safetensors": (
        _file("a.safetensors", _safetensors('{"a":' * 9999), read_tensors),
        ".",
    ),
    "weights that are not finite": (
        _file("a.safetensors", _safetensors({"a": _tensor("F32", [1], 0, 4)}, b"\0\0\x80\x7f"), read_weights),
        "not finite",
    ),
}


# ---- texts -------------------------------------------------------------------------------------------------


def _settings(text: str) -> Case:
    return _file("a.yaml", text, lambda path: load_settings(path, DemoConfig))


def _overrides(*overrides: str) -> Case:
    return _file("a.yaml", SETTINGS, lambda path: load_settings(path, DemoConfig, overrides))


HEADER = "video_id,start,end,bbox,fps,width,height,partition,person_id\n"
GOOD = "v,10,60,624-48-1018-553,25,1280,720,train,ann"


def _list(text: str) -> Case:
    return _file(
        "list.csv",
        text,
        lambda path: list_jobs(MetadataSource(kind="metadata", csv=path, videos=path.parent)),
    )


def _row(**changes: str) -> Case:
    fields = dict(zip(HEADER.strip().split(","), GOOD.split(","), strict=True)) | changes
    return _list(HEADER + ",".join(fields.values()) + "\n")


def _pairs(text: str) -> Case:
    return _file("pairs.csv", text, lambda path: read_pairs(path, {"a", "b"}))


def _json(value: object, read: Callable[[Path], object], name: str = "a.json") -> Case:
    return _file(name, json.dumps(value), read)


def _tracks(**changes: Any) -> Case:
    return _json(TRACKS | changes, read_tracks)


def _segment(**changes: Any) -> Case:
    return _tracks(segments=[TRACK | changes])


DIGITS = "\u0661\u0662"  # 12 in Arabic
TEXTS: dict[str, tuple[Case, str]] = {
    "YAML: 400,000 values": (_settings("a: [" + "1," * 400_000 + "]"), "config_nodes=NUMBER"),
    "YAML: brackets": (_settings("a: " + "[" * 20_000), "."),
    "YAML: indents": (_settings("".join(f"{' ' * n}a:\n" for n in range(1200))), "."),
    "YAML: a number of sixties": (_settings("seed: 1" + ":1" * 200_000), "a number of"),
    "YAML: a number of a million digits": (_settings("seed: 0x" + "f" * 500_000), "a number of"),
    "YAML: an object of Python": (
        _settings("a: !!python/object/apply:os.system ['touch x']"),
        "not valid YAML",
    ),
    "YAML: a key that is a list": (_settings("? [a, b]\n: 1"), "not valid YAML"),
    "YAML: an alias of itself": (_settings("a: &a [*a]"), "."),
    "YAML: aliases of aliases": (
        _settings("a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 9}]\n" for n in range(1, 12))),
        "config_nodes=NUMBER",
    ),
    "YAML: half a character": (_settings('run: "\\ud800"'), "."),
    "YAML: escape codes": (_settings('"\\e[2Jrun": 1'), "."),
    "YAML: UTF-16": (_settings(SETTINGS.encode("utf-16").decode("latin-1")), "."),
    "YAML: not a number": (_settings(SETTINGS + "\nseed: .nan\n"), "."),
    "--set: not a number": (_overrides("seed=.nan"), "'seed'"),
    "--set: beyond all range": (_overrides("seed=1e999"), "'seed'"),
    "--set: brackets": (_overrides("seed=" + "[" * 20_000), "."),
    "--set: a key of 10,000 parts": (_overrides("a." * 10_000 + "b=1"), "."),
    "--set: nothing": (_overrides("="), "."),
    "--set: a number of a million digits": (_overrides("seed=" + "9" * 10**6), "."),
    "list: digits of another script": (_row(start=DIGITS), "is not a whole number"),
    "list: digits of full width": (_row(width="\uff11\uff12\uff18"), "is not a whole number"),
    "list: no number": (_row(fps="nan"), "is not a number"),
    "list: no end": (_row(fps="inf"), "is not a number"),
    "list: a rate of a thousand million": (_row(fps="1e9"), "make no sense"),
    "list: frames beyond all numbers": (_row(end="9" * 400), "is not a whole number"),
    "list: a video outside": (_row(video_id="../../etc/passwd"), "cannot be part of a clip id"),
    "list: a person with escape codes": (_row(person_id="\x1b]0;x\x07"), "cannot be part of a clip id"),
    "list: a person from right to left": (_row(person_id="\u202eann"), "cannot be part of a clip id"),
    "list: a name of 4,000 characters": (_row(person_id="a" * 4000), "cannot be part of a clip id"),
    "list: a box of five": (_row(bbox="1-2-3-4-5"), "."),
    "list: a box inside out": (_row(bbox="9-9-1-1"), "."),
    "list: a million columns": (_list("a," * 10**6), "."),
    "list: one line for ever": (
        _sparse(
            "list.csv",
            b"a",
            2**33,
            lambda path: list_jobs(MetadataSource(kind="metadata", csv=path, videos=path.parent)),
        ),
        "list_field=NUMBER",
    ),
    "list: nothing but NUL": (_list("\0" * 1000), "."),
    "list: a quote that never ends": (_list(HEADER + '"' + GOOD + "\n" + (GOOD + "\n") * 3), ""),
    "pairs: an id of 4,000 characters": (_pairs("source,driving\na," + "b" * 4000 + "\n"), "no clip"),
    "pairs: escape codes": (_pairs("source,driving\na,\x1b[2J\n"), "no clip"),
    "JSON: 10,000 brackets": (_file("a.json", '{"a":' + "[" * 9999 + "]" * 9999 + "}", read_json), "."),
    "JSON: a number beyond all range": (_file("a.json", '{"a": 1e999}', read_json), "beyond all range"),
    "JSON: not a number": (_file("a.json", '{"a": NaN}', read_json), "not valid JSON"),
    "JSON: a number of 5,000 digits": (
        _file("a.json", f'{{"a": {"9" * 5000}}}', read_json),
        "not valid JSON",
    ),
    "JSON: half a character": (_file("a.json", '{"a": ["\\ud800"]}', read_json), "not valid JSON"),
    "JSON: half a character as a key": (_file("a.json", '{"\\udfff": 1}', read_json), "not valid JSON"),
    "JSON: a list": (_file("a.json", "[]", read_json), "not a JSON object"),
    "tracks: no rate": (_tracks(fps=0), "not a file of face tracks"),
    "tracks: a rate of text": (_tracks(fps="25"), "not a file of face tracks"),
    "tracks: a rate of a thousand million": (_tracks(fps=1e9), "not a file of face tracks"),
    "tracks: segments of text": (_tracks(segments="abc"), "not a file of face tracks"),
    "tracks: a segment of nothing": (_tracks(segments=[None]), "not a file of face tracks"),
    "tracks: a box outside": (_segment(box=[0, 0, 65, 32]), "not a file of face tracks"),
    "tracks: a box of text": (_segment(box="abcd"), "not a file of face tracks"),
    "tracks: a box of five": (_segment(box=[0, 0, 1, 1, 1]), "not a file of face tracks"),
    "tracks: a box of halves": (_segment(box=[0.5, 0, 1, 1]), "not a file of face tracks"),
    "tracks: frames backwards": (_segment(start=30, end=0), "not a file of face tracks"),
    "tracks: frames for ever": (_segment(end=10**30), "not a file of face tracks"),
    "tracks: an embedding of text": (_segment(embedding=["a"]), "not a file of face tracks"),
    "tracks: a reason that is none": (_segment(box=None, code="\x1b[2J"), "not a file of face tracks"),
    "mesh: a line of 8 million characters": (
        _file("a.obj", "f " + "1/1 " * 2**21, read_texture_layout),
        "is not a mesh",
    ),
    "mesh: a place that is not there": (
        _file("a.obj", "vt 0 0\nf 1/1 1/1 1/9999999999999999999999\n", read_texture_layout),
        ".",
    ),
    "mesh: a place before the first": (
        _file("a.obj", "vt 0 0\nf 1/-1 1/-1 1/-1\n", read_texture_layout),
        ".",
    ),
    "mesh: no number": (_file("a.obj", "vt nan inf\nf 1/1 1/1 1/1\n", read_texture_layout), "."),
}


# ---- tables, columns, models -------------------------------------------------------------------------------


def _parquet(name: str, columns: dict[str, Any], read: Callable[[Path], object], **options: Any) -> Case:
    def make(folder: Path) -> Callable[[], object]:
        pq.write_table(pa.table(columns), folder / name, **options)
        return lambda: read(folder / name)

    return make


def _people(**changes: Any) -> Case:
    columns: dict[str, Any] = {
        "person_id": ["ann", "bob"],
        "split": ["train", "test"],
        "clips": [["v#0#9#0"], ["w#0#9#0"]],
        "embedding": [[0.5, 1.0], [0.1, 0.2]],
        "embedded": [1, 1],
    }
    return _parquet("people.parquet", columns | changes, lambda path: read_people(path.parent))


def _clips(**changes: Any) -> Case:
    columns = {
        "mode": ["animation"],
        "source_id": ["a"],
        "driving_id": ["b"],
        "folder": ["c"],
        "psnr": [20.0],
    }
    return _parquet("clips.parquet", columns | changes, read_clips)


def _repeated(count: int) -> pa.Array:
    """So many rows of one kilobyte, which are written as one and how often."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array(["x" * 1000])).cast(
        pa.string()
    )


def _column(record: object) -> Case:
    def make(folder: Path) -> Callable[[], object]:
        (folder / "columns" / "a").mkdir(parents=True)
        (folder / "columns" / "a" / MANIFEST).write_text(json.dumps(record))
        return lambda: (column_names(folder), read_column(folder, "a"))

    return make


def _column_index(table: pa.Table, **options: Any) -> Case:
    def make(folder: Path) -> Callable[[], object]:
        index = folder / "columns" / "a" / "index"
        index.mkdir(parents=True)
        (index.parent / MANIFEST).write_text(json.dumps(COLUMN | {"parts": [PART]}))
        settings = pa.ipc.IpcWriteOptions(**options)
        with (
            pa.OSFile(str(index / f"{PART}.arrow"), "wb") as file,
            pa.ipc.new_file(file, table.schema, options=settings) as writer,
        ):
            writer.write_table(table)
        return lambda: read_column(folder, "a")

    return make


def _index_table(**changes: Any) -> pa.Table:
    from safa.data.columns import PART_SCHEMA

    row: dict[str, Any] = {"clip_id": "a", "n_frames": 3, "values_start": [4], "has_face": [1, 1, 1]}
    return pa.Table.from_pylist([row | changes], schema=PART_SCHEMA)


TABLES: dict[str, tuple[Case, str]] = {
    "130 MB of one value": (
        _parquet("a.parquet", {"a": _repeated(2**17)}, read_table),
        "table_ratio=NUMBER",
    ),
    "twelve million rows of one value": (
        _parquet("a.parquet", {"a": np.zeros(12_000_000, np.int64)}, read_table),
        "table_ratio=NUMBER",
    ),
    "lists in lists": (_parquet("a.parquet", {"a": pa.array([[[[[[1]]]]]])}, read_table), ""),
    "people: nobody": (_people(person_id=[None, "bob"]), "not a list of people"),
    "people: no clips": (_people(clips=[None, []]), "not a list of people"),
    "people: a number as a name": (_people(person_id=[1, 2]), ""),
    "people: a name that leads outside": (_people(person_id=["../a", "bob"]), "not a list of people"),
    "people: a split that is none": (_people(split=["../x", "test"]), "not a list of people"),
    "people: one twice": (_people(person_id=["ann", "ann"]), "not a list of people"),
    "people: embeddings of two lengths": (_people(embedding=[[1.0], [1.0, 2.0]]), "not a list of people"),
    "people: embeddings of nothing": (_people(embedding=[[], []]), "not a list of people"),
    "people: embeddings that are not numbers": (
        _people(embedding=[[np.nan], [np.inf]]),
        "not a list of people",
    ),
    "people: a count that is negative": (_people(embedded=[-1, 1]), "not a list of people"),
    "people: counts beyond 32 bits": (_people(embedded=[2**40, 1]), "not a list of people"),
    "people: embeddings of text": (_people(embedding=[["a"], ["b"]]), "not a list of people"),
    "clips: a mode that is none": (_clips(mode=["\x1b[2J"]), "no table of evaluated clips"),
    "clips: no mode": (_clips(mode=pa.array([None], pa.string())), "no table of evaluated clips"),
    "clips: a score of text": (_clips(psnr=["high"]), "no table of evaluated clips"),
    "clips: numbers as names": (_clips(source_id=[1]), "no table of evaluated clips"),
    "column: a list": (_column([]), "not a JSON object"),
    "column: a part outside": (_column(COLUMN | {"parts": ["../../index"]}), "cannot be read"),
    "column: parts of numbers": (_column(COLUMN | {"parts": 7}), "cannot be read"),
    "column: a kind of escape codes": (_column(COLUMN | {"kind": "\x1b[2J"}), "cannot be read"),
    "column: no kind": (_column({"format": 1, "parts": []}), "cannot be read"),
    "column: no part": (_column(COLUMN | {"parts": [PART]}), "."),
    "column: an index that unfolds": (
        _column_index(_index_table(has_face=[0] * 2**24), compression="zstd"),
        "unfolds to more than its size",
    ),
    "column: a clip without frames": (_column_index(_index_table(n_frames=-5)), "not an index of a column"),
    "column: a value that is missing": (
        _column_index(_index_table(clip_id=None)),
        "not an index of a column",
    ),
    "column: other columns": (_column_index(pa.table({"a": [1]})), "not an index of a column"),
}


GROUPS = {"photo": PHOTOS, "video": VIDEOS, "array": ARRAYS, "text": TEXTS, "table": TABLES}


@pytest.mark.parametrize(
    ("case", "words"),
    [
        pytest.param(*case, id=f"{group}: {name}")
        for group, cases in GROUPS.items()
        for name, case in cases.items()
    ],
)
def test_a_lie_is_read_or_refused_in_one_line(
    case: Case, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import re

    folder = tmp_path / "in"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    read = case(folder)
    before = sorted(tmp_path.rglob("*"))
    began = time.monotonic()
    with little_memory():
        line = refusal(read)
    assert time.monotonic() - began < SECONDS
    assert sorted(tmp_path.rglob("*")) == before, "something was written"
    assert re.search(words, line) if words else not line, line


# ---- models, names, places ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"step": "\x1b[2J"},
        {"step": -1},
        {"step": 1.5},
        {"stage": ["full"]},
        {"run": {}},
        {"trained_on": 7},
        {"model": {"num_keypoints": 10**9}},
        {"model": {"image_size": 64, "keypoint_variance": float("nan")}},
        {
            "model": {
                "generator": {"block_expansion": 4096, "max_features": 4096, "num_bottleneck_blocks": 64}
            }
        },
        {
            "model": {
                "keypoints": {
                    "hourglass": {
                        "block_expansion": 4,
                        "num_blocks": 2,
                        "max_features": 8,
                        "scale_factor": 1e-9,
                    }
                }
            }
        },
    ],
    ids=str,
)
def test_a_models_settings_cannot_lie(change: dict[str, Any], tmp_path: Path, model: Any) -> None:
    """Not of its sizes either: a network of 77 GB is compared with the weights before it is made."""
    from safa.checkpoint.native import ModelInfo

    save_model(tmp_path / "model", model, ModelInfo("full", model.config, 5, "test"))
    assert not refusal(lambda: load_model(tmp_path / "model"))
    file = tmp_path / "model" / "model.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with little_memory():
        assert refusal(lambda: load_model(tmp_path / "model"))


def test_a_checkpoint_of_pipes_and_devices(tmp_path: Path) -> None:
    for number, make in enumerate((os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero"))):
        for name in (
            "",
            "model.json",
            "model/model.json",
            "state.json",
            "checkpoints/step-00000001/state.json",
        ):
            top = tmp_path / f"{number}-{len(name)}"
            place = top / name if name else top
            place.parent.mkdir(parents=True, exist_ok=True)
            make(place)  # type: ignore[operator]
            with little_memory():
                assert refusal(lambda top=top: open_model(top)), (number, name)  # type: ignore[misc]


def test_a_folder_of_frames_with_pipes_and_other_digits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "0.png")
    assert "pipe" in refusal(lambda: ImageFolder(tmp_path, 25.0).info())
    (tmp_path / "0.png").unlink()
    for name in ("\u0660.png", "1.png", "01.png", "\u202e2.png"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    assert refusal(lambda: ImageFolder(tmp_path, 25.0).info())


@pytest.mark.parametrize(
    "name",
    ["\x1b[31mred.png", "\u202egnp.exe.png", "a\nb.png", "\udcff.png", "\u0007.mp4", "-rf.png", "%s%n.png"],
)
def test_names_reach_no_terminal(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"nothing")
    assert refusal(lambda: read_photo(path))
    assert refusal(lambda: probe(path))
    assert refusal(lambda: read_json(path))


def test_a_device_is_not_replaced_by_an_output(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    for place in (tmp_path / "a.mp4", Path("/dev/null")):
        with pytest.raises(UserError, match="is there and is no file"):
            check_output(place)


@pytest.mark.parametrize(
    "text", ["pixels=1e99999", "pixels=-1", "pixels=\u0661", "pixels", "nothing=1", "pixels=1=2"]
)
def test_limits_that_are_none(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    monkeypatch.setenv(VARIABLE, text)
    assert VARIABLE in refusal(lambda: read_photo(tmp_path / "a.png"))


def test_a_video_that_changes_its_size_a_thousand_times(tmp_path: Path) -> None:
    path = tmp_path / "a.mjpeg.avi"
    import av

    with av.open(str(path), "w", format="avi") as container:
        stream: Any = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuvj420p"
        for number in range(40):
            side = 16 if number % 2 else 2000
            buffer = io.BytesIO()
            Image.new("RGB", (side, side)).save(buffer, "JPEG")
            packet = av.Packet(buffer.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 25)
            container.mux(packet)
    with little_memory():
        assert len({frame.shape for frame in read_frames(path)}) == 1
    assert sys.getrecursionlimit() < 10**4
