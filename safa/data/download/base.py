"""XXX new"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from safa.errors import ClipError, FailureCode


class Downloader(Protocol):
    """Gets one video in one attempt."""

    def get(self, video_id: str, part: Path) -> None:
        """Write the video to ``part``.

        Raises:
            ClipError: with one of the four codes. For ``rate_limited`` it may carry ``pause``, in seconds.
        """
        ...


class Paused(ClipError):
    """A transient refusal with the pause that the host asked for."""

    def __init__(self, code: FailureCode, detail: str, pause: float | None = None) -> None:
        super().__init__(code, detail)
        self.pause = pause
