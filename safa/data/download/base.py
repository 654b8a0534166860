"""What all downloaders share: their interface, and the failure code that a host's words stand for."""

from __future__ import annotations

import re
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


# Tried in this order: a page that says "unavailable" because it takes us for a robot means a block.
_PATTERNS: tuple[tuple[FailureCode, re.Pattern[str]], ...] = (
    (
        FailureCode.BLOCKED,
        re.compile(
            r"not a (ro)?bot|captcha|unusual traffic|automated (queries|requests)|verify you are human"
            r"|access to this (page|resource) .*denied|blocked (by|it|your)"
            r"|proxy authentication",
            re.IGNORECASE,
        ),
    ),
    (
        FailureCode.RATE_LIMITED,
        re.compile(r"too many requests|HTTP Error (429|503)|rate.?limit|try again later", re.IGNORECASE),
    ),
    (
        FailureCode.UNAVAILABLE,
        re.compile(
            r"unavailable|private video|has been removed|been terminated|does not exist"
            r"|(?<!requested format is )not available"
            r"|account .*closed|copyright|confirm your age|age.restricted|members.only"
            r"|which is not public"
            r"|HTTP Error (401|403|404|410)|not made this video|unsupported url|no video formats",
            re.IGNORECASE,
        ),
    ),
    (
        FailureCode.TIMEOUT,
        re.compile(
            # Without JavaScript, YouTube shows no video where there is one.
            r"requested format is not available|only images are available|javascript runtime"
            r"|timed? ?out|connection|incomplete|reset by peer|temporary failure|more expected"
            r"|bytes read|HTTP Error 5[0-9]{2}|remote end closed|SSL|network is unreachable|name resolution",
            re.IGNORECASE,
        ),
    ),
)


def classify_error(text: str) -> FailureCode | None:
    """The code that a message or a page stands for; None if it matches nothing known."""
    return next((code for code, pattern in _PATTERNS if pattern.search(text)), None)
