"""Evaluates one clip in this process, as the workers of the pipeline do it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from safa.evaluation.clip_files import clip_folder, join_segments, write_files
from safa.evaluation.jobs import EvaluationJob
from safa.evaluation.parts import FRAMES, add_up, part_file, write_part
from safa.evaluation.results import ScoreRow
from safa.evaluation.window_stages import AllStages
from safa.evaluation.windows import windows_of


@dataclass(frozen=True)
class Evaluated:
    """What came of a clip: its files, means over its frames, and the rows of all frames by column."""

    folder: Path
    n_frames: int
    scores: Mapping[str, float]
    frames: dict[str, list[Any]]


def evaluate(
    stages: AllStages, job: EvaluationJob, out: Path, frames: int | None = None, length: int = 128
) -> Evaluated:
    """Do a job window by window; all output goes below ``out``."""
    n_frames = stages.reader._store.info(job.driving).n_frames
    n_frames = min(n_frames, frames or n_frames)
    windows = list(windows_of(job, 0, n_frames, length, shown=True))
    done = [stages(window) for window in windows]
    for each in done:
        write_files(out, each.window, each.files)
    write_part(out, "all", done)
    if len(windows) > 1:
        join_segments(out, windows[0], len(windows), stages.scorer._config.visuals)
    totals = add_up(out, np.array([n_frames]), length)
    assert totals.complete.tolist() == [True]
    table = Path(str(part_file(out, FRAMES, "all")))
    rows = pq.read_table(table).to_pydict() if table.exists() else {}
    return Evaluated(Path(str(clip_folder(out, windows[0]))), n_frames, ScoreRow(totals.means()[0]), rows)
