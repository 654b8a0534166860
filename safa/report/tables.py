"""Scores of clips as a Parquet table: what a report is made of, and what two reports are compared by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from safa.config.inference import Mode
from safa.errors import UserError
from safa.inference.evaluation import ClipResult
from safa.inference.scores import SCORES

CLIPS_SCHEMA = pa.schema(
    [
        ("mode", pa.string()),
        ("source_id", pa.string()),  # clip
        ("driving_id", pa.string()),  # clip
        ("source_person", pa.string()),
        ("driving_person", pa.string()),
        ("folder", pa.string()),  # beside the table: film, strip, frames
        ("n_frames", pa.int32()),
        ("seconds", pa.float64()),  # of work
        *((score, pa.float64()) for score in SCORES),  # mean over frames; NaN: none has one
    ]
)


@dataclass(frozen=True)
class ClipRow:
    """A clip of a table: what was done, where its files are, its scores."""

    mode: Mode
    source_id: str
    driving_id: str
    folder: str
    scores: dict[str, float]

    @property
    def key(self) -> tuple[str, str, str]:
        """The same in every evaluation of the same clips."""
        return self.mode, self.source_id, self.driving_id

    @property
    def title(self) -> str:
        """For people."""
        if self.source_id == self.driving_id:
            return self.driving_id
        return f"{self.source_id} ← {self.driving_id}"


def write_clips(path: Path, results: Sequence[ClipResult], folder: str) -> None:
    """One row per result, in the order given; ``folder`` holds ``<mode>/<clip>/``."""
    rows = [
        {
            "mode": result.job.mode,
            "source_id": result.job.source,
            "driving_id": result.job.driving,
            "source_person": result.source_person,
            "driving_person": result.driving_person,
            "folder": f"{folder}/{result.job.mode}/{result.job.folder_name}",
            "n_frames": result.n_frames,
            "seconds": result.seconds,
            **{score: result.scores.get(score, math.nan) for score in SCORES},
        }
        for result in results
    ]
    part = path.with_name(f".{path.name}.part")
    pq.write_table(pa.Table.from_pylist(rows, schema=CLIPS_SCHEMA), part)
    part.replace(path)


def read_clips(path: Path) -> tuple[ClipRow, ...]:
    """What ``write_clips`` wrote.

    Raises:
        UserError: no such file, or of another kind.
    """
    try:
        rows = pq.read_table(path).to_pylist()
        return tuple(
            ClipRow(
                row["mode"],
                row["source_id"],
                row["driving_id"],
                row["folder"],
                {score: row[score] for score in SCORES if score in row},
            )
            for row in rows
        )
    except (OSError, KeyError, pa.ArrowException) as error:
        raise UserError(
            f"no table of evaluated clips ({type(error).__name__})",
            str(path),
            "Name folders that pipelines.evaluate wrote.",
        ) from None
