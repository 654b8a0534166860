"""Row and batch functions that Ray Data runs on workers. They hold no mathematics: ``safa`` does the work."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from safa.config.preprocess import PreprocessConfig
from safa.data.clip_maker import make_clip
from safa.data.schema import Code, Refused
from safa.data.sources import ClipJob


class ClipMaker:
    """Makes one clip: writes its file and returns its status. A failure is a status too, no exception."""

    def __init__(self, config: PreprocessConfig) -> None:
        self._config = config

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Row ``{job}`` to ``{id, code, detail, n_frames}``; an empty code means that the clip is there."""
        job = ClipJob.from_json(row["job"])
        try:
            n_frames = make_clip(job, self._config)
        except Refused as refusal:
            return _status(job, refusal.code, refusal.detail)
        except Exception as error:  # one bad clip must never stop a run: it becomes a row instead
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(frame.filename).name}:{frame.lineno}"
            return _status(job, Code.UNEXPECTED, f"{type(error).__name__} at {place}: {error}")
        return {"id": job.clip_id, "code": "", "detail": "", "n_frames": n_frames}


def _status(job: ClipJob, code: Code, detail: str) -> dict[str, Any]:
    return {"id": job.clip_id, "code": str(code), "detail": " ".join(detail.split())[:500], "n_frames": 0}
