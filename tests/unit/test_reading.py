"""The boundary around readers, and the limits of what one input may make the program do."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from safa.array_files import map_npy, read_npy, read_npz
from safa.config.loader import load_settings
from safa.config.preprocess import PreprocessConfig
from safa.errors import UserError
from safa.limits import LIMITS, VARIABLE, check_limit, limit
from safa.reading import boundary, parse_json, read_json, read_limited, read_text_limited
from safa.tables import read_table

BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


# ---- limits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LIMITS)
def test_each_limit_can_be_raised_and_its_refusal_says_how(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = LIMITS[name].default
    check_limit(name, default, "here")
    with pytest.raises(UserError, match=rf"here: more than {default:,} .*{VARIABLE}={name}=NUMBER"):
        check_limit(name, default + 1, "here")
    monkeypatch.setenv(VARIABLE, f"{name}={default * 2}")
    check_limit(name, default + 1, "here")
    assert limit(name) == default * 2


def test_what_phones_and_cameras_make_is_let_through() -> None:
    check_limit("pixels", 200e6, "a photo of 200 megapixels")
    check_limit("pixels", 7680 * 4320, "a frame of 8K video")
    check_limit("seconds", 10 * 3600, "ten hours")
    check_limit("frames", 10 * 3600 * 30, "ten hours at 30 frames a second")


@pytest.mark.parametrize(
    "text", ["pixels", "nothing=3", "pixels=-1", "pixels=1e999", "pixels=1;ls", "PIXELS=3"]
)
def test_a_variable_that_makes_no_sense_is_one_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(UserError, match=VARIABLE):
        limit("pixels")


# ---- the boundary ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [struct.error("x"), RecursionError(), MemoryError(), KeyError("k"), OSError(5, "bad")]
)
def test_whatever_a_parser_raises_is_one_line(error: Exception) -> None:
    with (
        pytest.raises(UserError, match=r"^file: not readable \(.+\)\. Fix it$"),
        boundary("file", "not readable", "Fix it"),
    ):
        raise error


def test_a_terminal_cannot_be_controlled_by_a_name() -> None:
    line = str(UserError("no\x1b[31m such\u202e file\nor", "a\udcffb\x07"))
    assert line == "a\\udcffb\\x07: no\\x1b[31m such\\u202e file or"
    assert line.isprintable()


def test_only_files_that_end_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in (
        (tmp_path, "a folder"),
        (tmp_path / "pipe", "a pipe"),
        (Path("/dev/zero"), "a device"),
    ):
        with pytest.raises(UserError, match=f"is {kind}, not a file"):
            read_limited(path, "record_bytes")
    with pytest.raises(UserError, match="no such file"):
        read_limited(tmp_path / "nothing", "record_bytes")
    with pytest.raises(UserError, match="cannot be read"):
        read_limited(tmp_path / "a\0b", "record_bytes")


def test_bytes_are_counted_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "long").write_bytes(b"x" * 1001)
    monkeypatch.setenv(VARIABLE, "record_bytes=1000")
    with pytest.raises(UserError, match="more than 1,000 bytes"):
        read_limited(tmp_path / "long", "record_bytes")
    monkeypatch.setenv(VARIABLE, "record_bytes=1001")
    assert len(read_limited(tmp_path / "long", "record_bytes")) == 1001


def test_text_is_utf8_with_or_without_a_mark(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("\ufeffä".encode())
    assert read_text_limited(tmp_path / "a", "record_bytes") == "ä"
    (tmp_path / "b").write_bytes("ä".encode("latin1"))
    with pytest.raises(UserError, match=r"not UTF-8 text \(byte 0\)"):
        read_text_limited(tmp_path / "b", "record_bytes")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[1]",
        "1",
        '{"a": NaN}',
        '{"a": 1e400}',
        '{"a": [-1e999]}',
        "[" * 100_000,
        '{"a":' * 80 + "1" + "}" * 80,
    ],
)
def test_json_is_an_object_of_plain_finite_values(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"where: not (valid JSON|a JSON object)"):
        parse_json(text, "where")
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json"):
        read_json(tmp_path / "a.json")


# ---- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "more than 20,000 values"),
        ("a: &a [*a]", "an alias names what it is part of"),
        ("[" * 100_000, "nested too deeply"),
        ("size: " + "9" * 5000, "a number of 5000 characters"),
        ("x: " + "y" * 2**20, "more than 1,048,576 bytes"),
        ("a: \0", "not valid YAML"),
        ("size: !!binary aGVsbG8=", "not plain data"),
        ("!!python/object/apply:os.system [ls]", "not valid YAML"),
        ("? [a, b]\n: 1", "not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("<<: [1, 2]", "not valid YAML"),
        ("- 1", "not a mapping"),
    ],
)
def test_hostile_yaml_is_one_line(text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=reason):
        load_settings(path, PreprocessConfig)


@pytest.mark.parametrize(
    "override",
    ["fps=.inf", "fps=1e400", "fps=.nan", "fps=0", "fps=1e9", "size=10000000", "max_unexpected=-1"],
)
def test_numbers_out_of_range_are_refused(override: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        yaml.safe_dump(
            {"source": {"kind": "clips", "folder": "x"}, "out": "y", "landmarks": {"kind": "none"}}
        )
    )
    with pytest.raises(UserError, match=f"key '{override.partition('=')[0]}'"):
        load_settings(path, PreprocessConfig, [override])


# ---- arrays ------------------------------------------------------------------------------------------------


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


HEADERS = {
    "claims more than there is": "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}",
    "overflows": "{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296)}",
    "negative": "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}",
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
    "hidden objects": "{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,)}",
    "text": "{'descr': '<U1', 'fortran_order': False, 'shape': (2,)}",
    "no shape": "{'descr': '<f8', 'fortran_order': False}",
    "code": "__import__('os').system('true')",
    "sides": "{'descr': '<f8', 'fortran_order': False, 'shape': (0,0,0,0,0,0,0,0,0)}",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_no_header_of_an_array_is_believed(header: str, tmp_path: Path) -> None:
    data = npy(header, b"\0" * 16)
    (tmp_path / "a.npy").write_bytes(data)
    for read in (read_npy, map_npy):
        with pytest.raises(UserError, match=r"a\.npy"):
            read(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", data)
    with pytest.raises(UserError, match=r"a\.npz"):
        read_npz(tmp_path / "a.npz", ["x"])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(3, 4), (0, 4), (), (7,)])
def test_arrays_come_back_as_numpy_wrote_them(shape: tuple[int, ...], order: str, tmp_path: Path) -> None:
    array = np.asarray(np.arange(np.prod(shape), dtype=np.float32).reshape(shape), order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", x=array)
    for read in (
        read_npy(tmp_path / "a.npy"),
        map_npy(tmp_path / "a.npy"),
        read_npz(tmp_path / "a.npz", ["x"])["x"],
    ):
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


def test_an_archive_that_unfolds_is_refused_before_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(10**6))
    assert (tmp_path / "a.npz").stat().st_size < 20_000
    monkeypatch.setenv(VARIABLE, "array_bytes=1e6")
    with pytest.raises(UserError, match="more than 1,000,000 bytes"):
        read_npz(tmp_path / "a.npz", ["x"])


# ---- tables ------------------------------------------------------------------------------------------------


def test_a_table_that_unfolds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(
        pa.table({"a": pa.array(["x" * 1000] * 20_000)}), tmp_path / "a.parquet", compression="zstd"
    )
    assert (tmp_path / "a.parquet").stat().st_size < 50_000
    monkeypatch.setenv(VARIABLE, "table_bytes=1e6")
    with pytest.raises(UserError, match="more than 1,000,000 bytes"):
        read_table(tmp_path / "a.parquet")
    monkeypatch.setenv(VARIABLE, "table_rows=1000")
    with pytest.raises(UserError, match="more than 1,000 rows"):
        read_table(tmp_path / "a.parquet")


def test_a_table_is_read_or_refused_in_a_line(tmp_path: Path) -> None:
    table = pa.table({"a": [1, 2, 3], "b": ["x", "y", None]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    path = tmp_path / "a.parquet"
    path.write_bytes(buffer.getvalue())
    assert read_table(path).equals(table)
    assert read_table(path, ["b"]).column_names == ["b"]
    with pytest.raises(UserError, match="no column c"):
        read_table(path, ["c"])
    for cut in range(0, len(buffer.getvalue()), 50):
        path.write_bytes(buffer.getvalue()[:cut])
        with pytest.raises(UserError, match=r"a\.parquet"):
            read_table(path)
