"""Parts of an evaluation: what counts, and what is deleted from them."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from safa.evaluation.frame_scores import SCORES, Features
from safa.evaluation.jobs import EvaluationJob
from safa.evaluation.parts import FRAMES, add_up, fid_of_parts, part_file, windows_in, write_part
from safa.evaluation.window_stages import ScoredWindow
from safa.evaluation.windows import Window, draw_shown, windows_of

CLIPS = [f"p{number}#v#000000#000010" for number in range(3)]
LENGTHS = np.array([10, 10, 3])
PSNR = SCORES.index("psnr")


def windows(number: int, length: int = 4) -> list[Window]:
    job = EvaluationJob("reconstruction", CLIPS[number], CLIPS[number])
    return list(windows_of(job, number, int(LENGTHS[number]), length, shown=False))


def scored(window: Window, worth: float = 0.0) -> ScoredWindow:
    """PSNR of a frame is its number; other scores are missing."""
    scores = np.full((window.last - window.first, len(SCORES)), math.nan)
    scores[:, PSNR] = np.arange(window.first, window.last) + worth
    rows = np.random.default_rng(window.index).normal(size=(len(scores), 3)).astype(np.float32)
    features = Features(rows, rows + 1, rows[0])
    return ScoredWindow(window, "p", "p", 25.0, scores, features, {}, seconds=0.5)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    first, second, _ = (windows(number) for number in range(3))
    write_part(tmp_path, "a", [scored(first[0]), scored(second[1]), scored(second[2])])
    write_part(tmp_path, "b", [scored(first[1]), scored(first[2])])
    return tmp_path


def frames_of(out: Path) -> list[tuple[str, int]]:
    rows = pq.read_table(out / FRAMES).to_pylist()
    return sorted((row["clip_id"], row["frame"]) for row in rows)


def test_means_are_over_the_frames_of_all_windows_but_the_source(out: Path) -> None:
    totals = add_up(out, LENGTHS, 4)
    assert totals.complete.tolist() == [True, False, False]
    assert [totals.has(window) for window in windows(1)] == [False, True, True]
    assert totals.means()[0, PSNR] == pytest.approx(np.mean(range(1, 10)))
    assert math.isnan(totals.means()[2, PSNR])
    assert totals.seconds.tolist() == [1.5, 1.0, 0.0]


def test_a_window_that_is_there_twice_counts_once(out: Path) -> None:
    again = [scored(window, worth=100) for window in windows(0)]
    write_part(out, "c", [*again, scored(windows(1)[0])])
    totals = add_up(out, LENGTHS, 4)
    assert totals.complete.tolist() == [True, True, False]
    assert totals.means()[0, PSNR] == pytest.approx(np.mean(range(1, 10)))
    assert frames_of(out) == sorted((clip, frame) for clip in CLIPS[:2] for frame in range(10))
    assert windows_in(out, "c") == {(1, 0)}
    assert add_up(out, LENGTHS, 4).sums.tolist() == totals.sums.tolist()


def test_windows_of_failed_jobs_and_of_another_length_are_deleted(out: Path) -> None:
    assert add_up(out, LENGTHS, 4, {0}).complete.tolist() == [False, False, False]
    assert frames_of(out) == [(CLIPS[1], frame) for frame in range(4, 10)]
    assert windows_in(out, "b") is None
    assert not add_up(out, LENGTHS, 5).seen.any()
    assert not list(out.rglob("*.parquet"))


@pytest.mark.parametrize("kind", ["results", "frames", "features"])
@pytest.mark.parametrize("length", [0, 100])
def test_a_damaged_part_is_forgotten_and_said(
    kind: str, length: int, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    os.truncate(str(part_file(out, kind, "a")), length)
    totals = add_up(out, LENGTHS, 4)
    assert [totals.has(window) for window in windows(0)] == [False, True, True]
    assert [path.stem for path in out.rglob("*.parquet")] == ["part-b"] * 3
    assert "part a of the results is damaged (" in caplog.text
    write_part(out, "c", [scored(windows(0)[0])])  # done again
    assert add_up(out, LENGTHS, 4).complete.tolist() == [True, False, False]


def test_a_disk_that_fails_is_no_damaged_part(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(pq, "read_metadata", fail)
    with pytest.raises(OSError, match="Input/output"):
        add_up(out, LENGTHS, 4)
    assert windows_in(out, "a") is not None


def test_a_part_without_its_results_does_not_count(out: Path) -> None:
    Path(str(part_file(out, "results", "a"))).unlink()  # as of a worker that was killed before the last file
    (out / "results" / ".tmp-half.parquet").touch()
    totals = add_up(out, LENGTHS, 4)
    assert frames_of(out) == [(CLIPS[0], frame) for frame in range(4, 10)]
    assert totals.seen.sum() == 2
    assert not list((out / "results").glob(".tmp-*"))


def test_no_parts_are_an_empty_total(tmp_path: Path) -> None:
    totals = add_up(tmp_path, np.array([], np.int64), 4)
    assert totals.complete.tolist() == []
    assert math.isnan(fid_of_parts(tmp_path)[0])


def test_windows_cover_a_clip_once() -> None:
    spans = [(window.first, window.last, window.begins_early) for window in windows(0)]
    assert spans == [(0, 4, False), (4, 8, True), (8, 10, True)]
    assert [window.is_whole for window in windows(2)] == [True]
    assert Window.from_json(windows(1)[2].to_json()) == windows(1)[2]


def test_shown_jobs_are_as_many_of_each_mode() -> None:
    clips = [f"p{number}#v#000000#000010" for number in range(50)]
    jobs = [EvaluationJob("reconstruction", clip, clip) for clip in clips]
    jobs += [EvaluationJob("mesh", clip, clip) for clip in clips[:30]]
    jobs += [EvaluationJob("swap", clips[0], clips[1])]
    chosen = draw_shown(jobs, 21)
    assert chosen == draw_shown(jobs, 21)
    modes = [jobs[number].mode for number in chosen]
    assert [modes.count(mode) for mode in ("swap", "mesh", "reconstruction")] == [1, 10, 10]
    assert draw_shown(jobs, None) == draw_shown(jobs, 81) == set(range(81))
    assert draw_shown(jobs, 0) == set()
