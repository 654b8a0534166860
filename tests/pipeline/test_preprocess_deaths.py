"""Workers that die: what is there stays, nothing is lost, and an input that always kills is given up."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import preprocess
from pipelines.clip_stages import StageRunner
from safa.config.preprocess import ClipsSource, PreprocessConfig
from safa.data.video import write_video

pytestmark = [pytest.mark.slow, pytest.mark.ray]

CLIPS = 12
DEADLY = "clip05"


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of two pieces each."""
    folder = tmp_path_factory.mktemp("crops")
    for number in range(CLIPS):
        shades = (np.full((32, 32, 3), 10 * number + n, np.uint8) for n in range(16))
        write_video(folder / f"clip{number:02d}.mp4", shades, 25.0)
        points = np.full((16, 68, 2), 8.0 + number, np.float32)
        np.save(folder / f"clip{number:02d}.landmarks.npy", points)
    return folder


def _config(crops: Path, out: Path) -> PreprocessConfig:
    source = ClipsSource(kind="clips", folder=crops)
    settings: dict[str, Any] = {"size": 32, "min_frames": 4, "min_box": 16, "piece_frames": 8}
    return PreprocessConfig(source=source, out=out, **settings)


class Deadly(StageRunner):
    """A worker that dies, as for want of memory, in the middle of one clip; it counts its deaths."""

    deaths = 1000

    def _stage(self, stage: str, name: str) -> Any:
        work = super()._stage(stage, name)
        if stage != "crop":
            return work

        def crop(items: Any) -> Iterator[Any]:
            for piece in work(items):
                yield piece
                died = Path(str(self._config.out) + ".died")
                count = died.stat().st_size if died.exists() else 0
                if piece.record.clip_id == DEADLY and count < self.deaths:
                    with died.open("a") as file:
                        file.write(".")
                    os.kill(os.getpid(), signal.SIGKILL)

        return crop


class DeadlyOnce(Deadly):
    deaths = 1


def _quarantine(out: Path) -> list[dict[str, Any]]:
    return [row for path in (out / "quarantine").glob("*.parquet") for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def undisturbed(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> PreprocessConfig:
    config = _config(crops, tmp_path_factory.mktemp("undisturbed") / "out")
    assert preprocess.preprocess(config).ok == CLIPS
    return config


def test_a_clip_that_kills_its_worker_is_given_up_after_two_deaths_alone(
    crops: Path,
    tmp_path: Path,
    undisturbed: PreprocessConfig,
    stored_rows: Callable[[Path], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preprocess, "StageRunner", Deadly)
    monkeypatch.setattr(preprocess, "BLOCKS_PER_CPU", 1)  # several clips in a block
    config = _config(crops, tmp_path / "out")
    summary = preprocess.preprocess(config)
    assert summary.counts == {"in": CLIPS, "ok": CLIPS - 1, "quarantined": 1, "pending": 0}
    (row,) = _quarantine(tmp_path / "out")
    assert (row["id"], row["code"]) == (DEADLY, "unexpected")
    assert row["detail"] == "2 workers died at this input alone"
    # The death in company does not count.
    assert (tmp_path / "out.died").stat().st_size == 3
    expected = stored_rows(undisturbed.out)
    del expected[DEADLY]
    assert stored_rows(tmp_path / "out") == expected
    assert not (tmp_path / "out" / ".attempts").exists()


@pytest.mark.soak  # tests/faults has it on several raylets
def test_a_worker_killed_once_costs_nothing_but_time(
    crops: Path,
    tmp_path: Path,
    undisturbed: PreprocessConfig,
    stored_rows: Callable[[Path], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preprocess, "StageRunner", DeadlyOnce)
    monkeypatch.setattr(preprocess, "BLOCKS_PER_CPU", 1)
    config = _config(crops, tmp_path / "out")
    assert preprocess.preprocess(config).ok == CLIPS
    assert (tmp_path / "out.died").stat().st_size == 1
    assert stored_rows(tmp_path / "out") == stored_rows(undisturbed.out)
