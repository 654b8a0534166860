"""Locations in a real object store: whole or not at all, ranges, and a data set that lies there alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safa import files
from safa.checkpoint.native import read_model_weights
from safa.csv_files import read_csv
from safa.data.clip_store import ClipStore
from safa.data.dataset_files import compact, verify
from safa.data.shards import SHARDS
from safa.errors import UserError
from safa.files import (
    RangeReader,
    atomic_file,
    atomic_write,
    delete,
    entries,
    exists,
    join,
    read_bytes,
    size_of,
)

UPLOADER = """
import sys
from pathlib import Path
from safa import files
files.UPLOAD_BYTES = 2**20
copy = files.shutil.copyfileobj
def slowly(source, target, length):
    import time
    while data := source.read(length):
        target.write(data)
        print("more", flush=True)
        time.sleep(0.2)
files.shutil.copyfileobj = slowly
with files.atomic_file(sys.argv[1]) as path:
    path.write_bytes(bytes(64 * 2**20))
"""


def test_a_file_is_written_read_by_range_and_deleted(s3: str) -> None:
    where = join(s3, "folder", "a#b.bin")
    assert not exists(where)
    atomic_write(where, bytes(range(256)))
    assert (exists(where), size_of(where), read_bytes(where)) == (True, 256, bytes(range(256)))
    reader = RangeReader(where)
    assert reader.read(100, 3) == bytes([100, 101, 102])
    with pytest.raises(OSError, match="ends before"):
        reader.read(250, 10)
    assert [entry.name for entry in entries(join(s3, "folder"))] == ["a#b.bin"]
    delete(where)
    assert not exists(where)
    delete(where)


def test_a_block_that_raises_leaves_no_object(s3: str) -> None:
    where = join(s3, "x.bin")
    with pytest.raises(RuntimeError, match="on purpose"):
        _fail_in_file(where)
    assert not exists(where)


def _fail_in_file(where: files.Location) -> None:
    with atomic_file(where) as path:
        path.write_bytes(b"half")
        raise RuntimeError("on purpose")


def test_an_upload_that_raises_in_the_middle_leaves_no_object(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(source: Any, target: Any, length: int) -> None:
        target.write(source.read(2**20))
        raise OSError("the cable was pulled")

    monkeypatch.setattr(files.shutil, "copyfileobj", break_off)
    with (
        pytest.raises(UserError, match="the cable was pulled") as error,
        atomic_file(join(s3, "x.bin")) as path,
    ):
        path.write_bytes(bytes(2**22))
    assert "test:test" not in str(error.value)
    assert not exists(join(s3, "x.bin"))


def test_a_writer_killed_in_the_middle_of_an_upload_leaves_no_object(s3: str) -> None:
    where = join(s3, "killed.bin")
    command = [sys.executable, "-c", UPLOADER, str(where)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        for _ in range(12):  # parts of 10 MiB are sent by now
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    time.sleep(0.5)
    assert not exists(where)


def test_a_store_that_is_not_there_is_one_line(s3: str) -> None:
    refused = r"cannot be read or written \(SIGNATURE_DOES_NOT_MATCH in \w+: .*\)\. Check the store's address"
    with pytest.raises(UserError, match=refused):
        atomic_write(join(s3.replace("://test:test@", "://test:wrong@"), "x"), b"")
    with pytest.raises(UserError, match="no such file"):
        size_of(join(s3, "nothing"))


@pytest.mark.parametrize(
    "read", [size_of, ClipStore, read_model_weights, lambda uri: list(read_csv(uri, ("video_id",)))]
)
def test_a_bucket_that_is_not_there_is_named(read: Callable[[str], Any], bucket: str) -> None:
    with pytest.raises(UserError) as here:
        read(join(bucket, "nothing"))
    assert "bucket '" not in str(here.value)
    with pytest.raises(UserError, match="there is no bucket 'no-such-bucket'"):
        read(join(bucket.replace("@bucket-", "@no-such-bucket/"), "nothing"))


def test_a_data_set_lies_in_a_bucket_alone(
    s3: str,
    clip_row: Callable[..., dict[str, Any]],
    write_clips: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = join(s3, "vox", "clips")
    rows = [clip_row("ann", "train"), clip_row("dan", "test")]
    write_clips(folder, rows[:1])
    write_clips(folder, rows[1:])
    store = ClipStore(folder)
    assert store.encoded_frames(rows[1]["clip_id"], [5, 0]) == [rows[1]["frames"][5], rows[1]["frames"][0]]
    expected = np.array(rows[0]["landmarks"]).reshape(-1, 68, 2)
    np.testing.assert_array_equal(store.landmarks(rows[0]["clip_id"], [3]), expected[[3]])
    assert verify(folder).errors == ()
    assert compact(folder) == (2, 1)
    assert len(list(entries(join(folder, SHARDS)))) == 1
    staged = ClipStore(folder, stage_to=tmp_path / "node")
    assert staged.encoded_frames(rows[1]["clip_id"], [4]) == [rows[1]["frames"][4]]
    assert [path.name for path in tmp_path.iterdir()] == ["node"]  # nothing else on the local disk


@pytest.mark.parametrize("kind", ["disk", "store"])
def test_a_folder_appears_whole_is_replaced_and_removed(kind: str, request: Any, tmp_path: Path) -> None:
    root = tmp_path / "root" if kind == "disk" else request.getfixturevalue("s3")
    folder = join(root, "step-1")
    assert files.dir_names(root) == []
    for text in ("one", "two"):
        with files.atomic_dir(folder) as path:
            (path / "a.txt").write_text(text)
            (path / "sub").mkdir()
            (path / "sub" / "b.txt").write_text(text * 2)
        with files.local_dir(folder) as path:
            assert (path / "a.txt").read_text() == text
            assert (path / "sub" / "b.txt").read_text() == text * 2
    with pytest.raises(RuntimeError, match="on purpose"):
        _fail_in(join(root, "step-2"))
    assert files.dir_names(root) == ["step-1"]
    assert files.dir_exists(folder)
    files.delete_dir(folder)
    assert not files.dir_exists(folder)
    assert files.dir_names(root) == []
    files.delete_dir(folder)


def _fail_in(folder: files.Location) -> None:
    with files.atomic_dir(folder) as path:
        (path / "a.txt").write_text("half")
        raise RuntimeError("on purpose")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../b", "", "a\0b"])
def test_a_name_that_leaves_its_folder_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="leave its folder"):
        files.safe_relative(name)


def test_a_folder_that_broke_off_is_not_there(s3: str) -> None:
    folder = join(s3, "step-1")
    atomic_write(join(folder, "a.txt"), "half")  # an upload that was killed before its last file
    assert files.dir_names(s3) == []
    assert not files.dir_exists(folder)
    with pytest.raises(UserError, match="no such file"), files.local_dir(folder):
        pytest.fail("there is no such folder")
