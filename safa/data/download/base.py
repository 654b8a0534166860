"""What all downloaders share: their interface, and the error that carries a host's wish to wait."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from safa.errors import ClipError, FailureCode


class Downloader(Protocol):
    """Downloads one video in one attempt."""

    def get(self, video_id: str, path: Path) -> None:
        """Write the video to ``path``.

        Raises:
            ClipError: with one of the four codes of this package.
            RetryAfterError: the host said how long to wait.
        """
        ...


class RetryAfterError(ClipError):
    """A transient error with the pause that the host asked for, in seconds; None if it named none."""

    def __init__(self, code: FailureCode, detail: str, pause: float | None = None) -> None:
        super().__init__(code, detail)
        self.pause = pause
