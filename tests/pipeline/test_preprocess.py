"""Preprocessing on a real Ray: every input ends as a clip or a reason, and a killed run can be resumed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from pipelines import preprocess
from safa.config import dump_settings
from safa.config.preprocess import ClipsSource, MetadataSource, PreprocessConfig
from safa.data.clip_store import ClipStore
from safa.data.shards import stored_clips
from safa.data.sources import COLUMNS, list_jobs
from safa.data.video import write_video
from safa.errors import UserError
from safa.files import Location, entries, join

ROOT = Path(__file__).parents[2]
FRAMES = 40

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def _frames(shade: int, count: int = FRAMES) -> Iterator[np.ndarray]:
    for number in range(count):
        frame = np.full((96, 128, 3), shade, np.uint8)
        frame[20:70, 20 + number : 70 + number] = 200
        yield frame


def _video(folder: Path, name: str, *, faces: bool = True, shade: int = 60) -> Path:
    path = folder / f"{name}.mp4"
    write_video(path, _frames(shade), 25.0)
    points = np.full((FRAMES, 68, 2), 45.0, np.float32) + np.arange(FRAMES, dtype=np.float32)[:, None, None]
    if not faces:
        points[:] = np.nan
    np.save(folder / f"{name}.landmarks.npy", points)
    return path


def _line(
    video: str, start: int = 0, end: int = 30, bbox: str = "10-10-90-90", **changes: str
) -> dict[str, str]:
    values = {"video_id": video, "start": str(start), "end": str(end), "bbox": bbox, "fps": "25"}
    values |= {"width": "128", "height": "96", "partition": "train", "person_id": "someone"}
    return values | changes


def _write_list(path: Path, lines: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(lines)
    return path


def _config(root: Path, out: str = "out", **changes: object) -> PreprocessConfig:
    source = MetadataSource(kind="metadata", csv=root / "list.csv", videos=root / "videos")
    settings: dict[str, object] = {"source": source, "out": root / out, "size": 32, "min_frames": 10}
    return PreprocessConfig(**{**settings, "min_box": 40, "piece_frames": 12, **changes})  # type: ignore[arg-type]


def _quarantine(out: Path) -> list[dict[str, Any]]:
    return [row for path in (out / "quarantine").glob("*.parquet") for row in pq.read_table(path).to_pylist()]


def _times(out: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (out / "clips").rglob("*.parquet")}


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list with two good clips and one of each error."""
    root = tmp_path_factory.mktemp("poisoned")
    videos = root / "videos"
    videos.mkdir()
    _video(videos, "good")
    _video(videos, "faceless", faces=False)
    whole = _video(videos, "cut")
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    _video(videos, "bare")
    (videos / "bare.landmarks.npy").unlink()
    _write_list(
        root / "list.csv",
        [
            _line("good"),
            _line("good", 5, 40, width="64", height="48", bbox="5-5-45-45"),  # listed at half the size
            _line("good", 0, 5),
            _line("good", 0, 31, bbox="10-10-30-30"),
            _line("good", 0, 32, bbox="100-60-200-160"),
            _line("faceless"),
            _line("cut"),
            _line("missing"),
            _line("bare"),
            _line("../../etc/passwd"),
            _line("good", 0, 33, bbox="x"),
            _line("good"),  # the first line again
        ],
    )
    return root


def test_every_input_ends_as_a_clip_or_a_reason(poisoned: Path) -> None:
    summary = preprocess.preprocess(_config(poisoned))
    assert (summary.total, summary.ok, summary.quarantined) == (12, 2, 10)
    reasons = {
        "too_short",
        "too_small",
        "border",
        "no_face",
        "decode",
        "unavailable",
        "no_landmarks",
        "bad_row",
        "duplicate",
    }
    assert set(summary.reasons) == reasons
    assert summary.reasons["bad_row"] == 2
    rows = [
        row
        for path in (poisoned / "out/quarantine").glob("*.parquet")
        for row in pq.read_table(path).to_pylist()
    ]
    assert len({row["id"] for row in rows}) == len(rows) == 10
    assert all(row["detail"] and row["attempts"] == 1 for row in rows)
    assert json.loads((poisoned / "out/summary.json").read_text())["in"] == 12
    store = ClipStore(poisoned / "out" / "clips")
    whole, half = store.clips()
    assert (whole.n_frames, half.n_frames) == (30, 35)
    # Both boxes are the same part of the real video; the second clip starts 5 frames later.
    np.testing.assert_allclose(
        store.landmarks(whole.clip_id)[5:], store.landmarks(half.clip_id)[:25], atol=1e-4
    )
    first, second = (store.frames(c.clip_id, [i])[0].astype(int) for c, i in ((whole, 5), (half, 0)))
    assert np.abs(first - second).mean() < 2


def test_a_second_run_changes_nothing_and_a_retry_counts(poisoned: Path) -> None:
    config = _config(poisoned)
    preprocess.preprocess(config)
    before = _times(poisoned / "out")
    summary = preprocess.preprocess(config)
    assert summary.total == summary.ok + summary.quarantined == 12
    assert before == {
        path: path.stat().st_mtime_ns for path in (poisoned / "out" / "clips").rglob("*.parquet")
    }
    again = preprocess.preprocess(_config(poisoned, retry_quarantined=True))
    assert (again.ok, again.quarantined) == (2, 10)
    assert {row["attempts"] for row in _quarantine(poisoned / "out")} == {2}


def test_other_settings_do_not_mix(poisoned: Path) -> None:
    preprocess.preprocess(_config(poisoned, "claimed"))
    with pytest.raises(UserError, match="holds output of other settings"):
        preprocess.preprocess(_config(poisoned, "claimed", size=64))


def test_a_run_without_a_clip_does_not_bind_its_folder(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    _video(tmp_path / "videos", "good")
    _write_list(tmp_path / "list.csv", [_line("good"), _line("good", 5, 40)])
    with pytest.raises(UserError, match="not one of 2 clips could be used"):
        preprocess.preprocess(_config(tmp_path, min_frames=1000))
    summary = preprocess.preprocess(_config(tmp_path))
    assert (summary.total, summary.ok, summary.quarantined) == (2, 2, 0)
    with pytest.raises(UserError, match=r"other settings \(min_frames: 10 -> 1000\)"):
        preprocess.preprocess(_config(tmp_path, min_frames=1000))


def test_a_missing_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write_list(tmp_path / "list.csv", [_line("good")])
    path = tmp_path / "job.yaml"
    path.write_text(dump_settings(_config(tmp_path)))
    assert preprocess.main(["--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "no such folder of videos" in error


def test_files_that_are_clips_already(poisoned: Path, tmp_path: Path) -> None:
    folder = tmp_path / "crops"
    folder.mkdir()
    _video(folder, "p1#v1#000100#000140")
    _video(folder, "some_clip")
    source = ClipsSource(kind="clips", folder=folder, split="test")
    assert [job.person_id for job in list_jobs(source).jobs] == ["p1", "some_clip"]
    config = PreprocessConfig(source=source, out=tmp_path / "out", size=32, min_frames=10, min_box=40)
    assert preprocess.preprocess(config).ok == 2
    info = ClipStore(tmp_path / "out" / "clips").info("p1#v1#000100#000140")
    assert (info.split, info.start, info.n_frames) == ("test", 100, FRAMES)


def test_clips_in_an_object_store(
    bucket: str, tmp_path: Path, stored_rows: Callable[[Path], dict[str, str]]
) -> None:
    """Each worker brings a video and its landmarks to its own disk; what lacks them is refused as ever."""
    folder = tmp_path / "crops"
    folder.mkdir()
    for name in ("p1#v1#000100#000140", "p2#v2#000000#000040"):
        _video(folder, name)
    (folder / "p2#v2#000000#000040.landmarks.npy").unlink()
    store, path = fs.FileSystem.from_uri(bucket)
    fs.copy_files(str(folder), f"{path}/crops", destination_filesystem=store)
    source = ClipsSource(kind="clips", folder=bucket.replace("?", "/crops?"))
    config = PreprocessConfig(source=source, out=tmp_path / "out", size=32, min_frames=10, min_box=40)
    summary = preprocess.preprocess(config)
    assert (summary.total, summary.ok, summary.reasons) == (2, 1, {"no_landmarks": 1})
    here = ClipsSource(kind="clips", folder=folder)
    preprocess.preprocess(config.model_copy(update={"source": here, "out": tmp_path / "here"}))
    assert stored_rows(tmp_path / "out") == stored_rows(tmp_path / "here")


@pytest.mark.parametrize("place", ["disk", pytest.param("store", marks=pytest.mark.soak)])
def test_killed_in_the_middle_then_finished_equals_undisturbed(
    place: str,
    tmp_path: Path,
    stored_rows: Callable[[Location], dict[str, str]],
    request: pytest.FixtureRequest,
) -> None:
    """kill -9 of the driver after the first shards; the rerun's rows equal those of a run left alone."""
    out = tmp_path / "killed" if place == "disk" else join(request.getfixturevalue("s3"), "killed")
    (tmp_path / "videos").mkdir()
    names = [f"v{number}" for number in range(10)]
    for number, name in enumerate(names):
        _video(tmp_path / "videos", name, shade=20 + 5 * number)
    _write_list(tmp_path / "list.csv", [_line(name) for name in [*names, "absent"]])
    config = _config(tmp_path).model_copy(update={"out": out})
    path = tmp_path / "job.yaml"
    path.write_text(dump_settings(config))
    command = [sys.executable, "-m", "pipelines.preprocess", "--config", str(path)]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        clips = join(out, "clips")
        deadline = time.monotonic() + 120
        while len(stored_clips(clips)) < 3 and time.monotonic() < deadline:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert 3 <= len(stored_clips(clips)) < len(names)
    assert preprocess.preprocess(config).counts == {"in": 11, "ok": 10, "quarantined": 1, "pending": 0}
    preprocess.preprocess(_config(tmp_path, "undisturbed"))
    assert stored_rows(out) == stored_rows(tmp_path / "undisturbed")
    written = {entry.name for entry in entries(out)}
    assert written >= {"clips", "quarantine", "summary.html", "summary.json", "manifest.json", "config.yaml"}
    assert not (ROOT / "s3:").exists()
