"""VoxCeleb from a host that misbehaves: killed in the middle, finished by a second run, nothing lost."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import imageio_ffmpeg
import pyarrow.parquet as pq
import pytest

from pipelines import preprocess
from safa.config import dump_settings
from safa.config.preprocess import MetadataSource, NoLandmarks, PreprocessConfig, UrlDownload
from safa.data.shards import stored_clips
from safa.data.sources import COLUMNS
from safa.errors import UserError
from tests.bad_host import Behaviour, serving

ROOT = Path(__file__).parents[2]
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
# Ids and boxes of the first rows of VoxCeleb's list, which are drawn on 1280x720; the host has 320x180.
GOOD = ("WMh3ye5tBsE", "6uxD2Cq5TtU", "A9cgzsOX0Fs", "EOJ9b6Ydb_w", "lL2MVDyGgXc", "qEvyBJxRRaY")
BOX = "624-48-1018-553"
ERRORS = {  # what the host does -> the code of both clips of that video
    "404": "unavailable",
    "403": "unavailable",
    "page": "unavailable",
    "429": "rate_limited",
    "truncated": "timeout",
    "stalled": "timeout",
}
KINDS = {
    "vfr": None,
    "ten_bit": None,
    "rotated": None,
    "audio": "decode",
    "empty": "decode",
    "past": "too_short",
}

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def _ffmpeg(*arguments: str) -> None:
    subprocess.run([FFMPEG, "-y", "-loglevel", "error", *arguments], check=True)


def _write_videos(folder: Path) -> None:
    scene = ("-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25:duration=6")
    h264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
    good = folder / f"{GOOD[0]}.mp4"
    _ffmpeg(*scene, *h264, str(good))
    for name in (*GOOD[1:], *(f"way_{way}" for way in ERRORS), "past"):
        (folder / f"{name}.mp4").write_bytes(good.read_bytes())
    uneven = ("-vf", "select='lt(n,40)+not(mod(n,3))'", "-fps_mode", "vfr")
    _ffmpeg(*scene, *uneven, *h264, str(folder / "vfr.mp4"))
    _ffmpeg(
        *scene,
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-pix_fmt",
        "yuv420p10le",
        str(folder / "ten_bit.mp4"),
    )
    upright = ("-f", "lavfi", "-i", "testsrc2=size=180x320:rate=25:duration=6")
    _ffmpeg(*upright, *h264, str(folder / "lying.mp4"))
    _ffmpeg(
        "-display_rotation", "90", "-i", str(folder / "lying.mp4"), "-c", "copy", str(folder / "rotated.mp4")
    )
    _ffmpeg("-f", "lavfi", "-i", "sine=duration=6", "-c:a", "aac", str(folder / "audio.mp4"))
    (folder / "empty.mp4").write_bytes(b"")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of a host, and a list that names two clips of each."""
    root = tmp_path_factory.mktemp("world")
    (root / "videos").mkdir()
    _write_videos(root / "videos")
    names = [*GOOD, *(f"way_{way}" for way in ERRORS), *KINDS]
    with (root / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for name in names:
            for start in (10, 70):
                first = start + (5000 if name == "past" else 0)
                writer.writerow([name, first, first + 50, BOX, 25, 1280, 720, "train", "id10005"])
    return root


@pytest.fixture
def host(world: Path) -> Iterator[tuple[Behaviour, str]]:
    behaviour = Behaviour(world / "videos", {f"way_{way}": way for way in ERRORS}, stall_s=2.0)
    with serving(behaviour) as address:
        yield behaviour, address


def _config(world: Path, address: str, out: Path) -> PreprocessConfig:
    policy = UrlDownload(
        kind="url", url=address + "/{video_id}.mp4", attempts=2, backoff_s=0.05, timeout_s=0.5, parallel=2
    )
    source = MetadataSource(
        kind="metadata", csv=world / "list.csv", videos=out.parent / "videos", download=policy
    )
    common = {"size": 32, "min_frames": 10, "min_box": 40}
    return PreprocessConfig(source=source, out=out, landmarks=NoLandmarks(kind="none"), **common)  # type: ignore[arg-type]


def _reasons(out: Path) -> dict[str, str]:
    files = list((out / "quarantine").glob("part-*.parquet"))
    return {row["id"].split("#")[1]: row["code"] for file in files for row in pq.read_table(file).to_pylist()}


@pytest.mark.soak
def test_killed_then_finished_equals_undisturbed(
    world: Path,
    host: tuple[Behaviour, str],
    tmp_path: Path,
    stored_rows: Callable[[Path], dict[str, str]],
) -> None:
    behaviour, address = host
    killed = _config(world, address, tmp_path / "killed" / "out")
    job = tmp_path / "job.yaml"
    job.write_text(dump_settings(killed))
    behaviour.slow_s = 0.3
    command = [sys.executable, "-m", "pipelines.preprocess", "--config", str(job)]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while len(_names(killed)) < 2 and time.monotonic() < deadline:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    first = _names(killed)
    assert 2 <= len(first) < 2 * (len(GOOD) + 3)
    behaviour.slow_s = 0.0
    summary = preprocess.preprocess(killed)

    undisturbed = _config(world, address, tmp_path / "undisturbed" / "out")
    assert preprocess.preprocess(undisturbed) == summary
    assert stored_rows(killed.out) == stored_rows(undisturbed.out)
    assert summary.total == summary.ok + summary.quarantined == 2 * (len(GOOD) + len(ERRORS) + len(KINDS))
    refused = {f"way_{way}": code for way, code in ERRORS.items()}
    refused |= {name: code for name, code in KINDS.items() if code}
    assert _reasons(killed.out) == _reasons(undisturbed.out) == refused
    assert summary.reasons == {code: 2 * n for code, n in Counter(refused.values()).items()}
    # Nothing that was downloaded is left.
    assert not [path for path in (tmp_path / "killed" / "videos").rglob("*") if path.is_file()]
    stored = json.loads((killed.out / "summary.json").read_text())
    assert stored["in"] == stored["ok"] + stored["quarantined"]
    assert "data:image/jpeg" in (killed.out / "summary.html").read_text()


def _names(config: PreprocessConfig) -> set[str]:
    return stored_clips(config.out / "clips")


def test_one_download_serves_all_clips_and_only_what_may_pass_is_tried_again(
    world: Path, host: tuple[Behaviour, str], tmp_path: Path
) -> None:
    behaviour, address = host
    config = _config(world, address, tmp_path / "out")
    preprocess.preprocess(config)
    assert {behaviour.count[name] for name in GOOD} == {1}
    before = behaviour.count.copy()
    behaviour.ways = {}
    summary = preprocess.preprocess(config)
    asked = {name for name in before if behaviour.count[name] > before[name]}
    assert asked == {"way_429", "way_truncated", "way_stalled"}
    assert summary.ok == 2 * (len(GOOD) + 3 + 3)


def test_a_bot_check_stops_the_run_which_resumes_another_day(
    world: Path, host: tuple[Behaviour, str], tmp_path: Path
) -> None:
    behaviour, address = host
    behaviour.ways = dict.fromkeys(GOOD[1:], "bot") | dict.fromkeys(KINDS, "bot")
    behaviour.ways |= {f"way_{way}": "bot" for way in ERRORS}
    config = _config(world, address, tmp_path / "out")
    with pytest.raises(UserError, match=r"blocks us.*still to do.*cookies"):
        preprocess.preprocess(config)
    summed = json.loads((config.out / "summary.json").read_text())
    assert summed["in"] == summed["ok"] + summed["quarantined"] + summed["pending"]
    assert summed["pending"] >= 2
    assert "blocked" not in summed["reasons"]
    behaviour.ways = {}
    summary = preprocess.preprocess(config)
    assert summary.pending == 0
    assert summary.ok == 2 * (len(GOOD) + len(ERRORS) + 3)
