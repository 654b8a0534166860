"""Files of a disk and of object stores, read alike; S3 is spoken to a server on loopback."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import fs

from safa.config import parse_settings
from safa.config.preprocess import ClipsSource, MetadataSource
from safa.data.sources import COLUMNS, contents, list_jobs
from safa.errors import UserError
from safa.files import Entry, entries, local_copy, name_of, open_text

CLIP = "id1#v#000000#000010"
LINE = "v,0,10,0-0-64-64,25,64,64,train,id1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A video with a sidecar, a folder of pictures, a list, something else; spaces and hashes in names."""
    path = tmp_path / "a folder"
    (path / "id2#v#000000#000002").mkdir(parents=True)
    (path / f"{CLIP}.mp4").write_bytes(b"video")
    (path / f"{CLIP}.pkl").write_bytes(b"points")
    (path / "list.csv").write_text("\ufeff" + ",".join(COLUMNS) + "\n" + LINE)
    for number in range(2):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path / "id2#v#000000#000002" / f"{number}.png")
    return path


@pytest.fixture(params=["path", "file", "s3"])
def location(request: pytest.FixtureRequest, folder: Path) -> str:
    """The folder as a path, as a file:// URI, and as a copy in a bucket."""
    if request.param == "path":
        return str(folder)
    if request.param == "file":
        return folder.as_uri()
    bucket: str = request.getfixturevalue("bucket")
    store, path = fs.FileSystem.from_uri(bucket)
    fs.copy_files(str(folder), f"{path}/a folder", destination_filesystem=store)
    return bucket.replace("?", "/a%20folder?")


def test_a_folder_lists_alike(location: str) -> None:
    found = sorted(entries(location))
    assert [(entry.name, entry.is_folder) for entry in found] == [
        (f"{CLIP}.mp4", False),
        (f"{CLIP}.pkl", False),
        ("id2#v#000000#000002", True),
        ("list.csv", False),
    ]
    assert [(entry.stem, entry.suffix) for entry in found[:3:2]] == [
        (CLIP, ".mp4"),
        ("id2#v#000000#000002", ""),
    ]
    assert [name_of(entry.location) for entry in found] == [entry.name for entry in found]


def test_jobs_are_alike(location: str) -> None:
    source = parse_settings({"kind": "clips", "folder": location}, ClipsSource, "test")
    jobs = list_jobs(source).jobs
    assert [(job.clip_id, job.person_id, job.fps) for job in jobs] == [
        (CLIP, "id1", None),
        ("id2#v#000000#000002", "id2", 25.0),
    ]


def test_copies_come_with_their_companions_and_go(location: str, folder: Path) -> None:
    video, _, pictures, _ = sorted(entries(location))
    with local_copy(video.location, [f"{CLIP}.pkl", f"{CLIP}.landmarks.npy"]) as path:
        assert (path.name, path.read_bytes()) == (video.name, b"video")
        assert path.with_suffix(".pkl").read_bytes() == b"points"
        assert not path.with_name(f"{CLIP}.landmarks.npy").exists()
    with local_copy(pictures.location) as shown:
        assert sorted(child.name for child in shown.iterdir()) == ["0.png", "1.png"]
    assert path.exists() == shown.exists() == (path.parent == folder)


def test_what_is_missing_is_missing_in_the_copy_too(location: str) -> None:
    video = min(entries(location))
    with local_copy(video.location.replace(".mp4", ".webm")) as path:
        assert path.suffix == ".webm"
        assert not path.exists()


def test_lists_are_read_line_by_line(location: str) -> None:
    csv = max(entries(location)).location
    with open_text(csv) as file:
        assert file.read().startswith("video_id,")  # without the byte order mark
    source = parse_settings({"kind": "metadata", "csv": csv, "videos": "/"}, MetadataSource, "test")
    (job,) = list_jobs(source).jobs
    assert (job.clip_id, job.video) == (CLIP, "/v.mp4")


def test_a_folder_that_is_not_there(location: str) -> None:
    (video,) = [entry for entry in entries(location) if entry.suffix == ".mp4"]
    missing = video.location.replace("id1%23", "id9%23").replace("id1#", "id9#")
    with pytest.raises(UserError, match=r"no such folder of clips. Check the location"):
        contents(missing, "clips")


def test_other_schemes_are_refused() -> None:
    with pytest.raises(UserError, match=r"key 'folder' is 'ftp://x': must be a path, or begin with s3://"):
        parse_settings({"kind": "clips", "folder": "ftp://x"}, ClipsSource, "test")


def test_a_folder_has_no_suffix() -> None:
    assert Entry("a.b", "/a.b", True).stem == "a.b"
    assert Entry("a.b", "/a.b", False).stem == "a"
