"""Videos over http and https, with the standard library."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

from safa.config.preprocess import UrlFetch
from safa.data.fetch import Paused
from safa.data.fetch.words import meaning
from safa.data.schema import Code, Refused

BLOCK_BYTES = 2**18
PAGE_BYTES = 2**16  # of an error page, enough to see what it says
AGENT = "safa-preprocess"


class WebFetcher:
    """A ``Fetcher`` over a URL template."""

    def __init__(self, config: UrlFetch) -> None:
        self._config = config

    def get(self, video_id: str, part: Path) -> None:
        """Stream the video to ``part``; an answer that is a page, short or stalled is refused."""
        url = self._config.url.replace("{video_id}", quote(video_id, safe=""))
        request = urllib.request.Request(url, headers={"User-Agent": AGENT})
        try:
            with urllib.request.urlopen(request, timeout=self._config.timeout_s) as answer:
                _save(answer, part)
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error) from None
        except (TimeoutError, http.client.HTTPException, OSError) as error:
            raise Refused(Code.TIMEOUT, f"{type(error).__name__}: {error}") from None


def _save(answer: http.client.HTTPResponse, part: Path) -> None:
    block = answer.read(BLOCK_BYTES)
    if answer.headers.get_content_type() == "text/html" or block.lstrip()[:1] == b"<":
        page = block[:PAGE_BYTES].decode(errors="replace")
        if meaning(page) == Code.BLOCKED:
            raise Refused(Code.BLOCKED, "the host asks whether we are a robot")
        raise Refused(Code.UNAVAILABLE, "a web page came instead of a video")
    length = 0
    with part.open("wb") as file:
        while block:
            file.write(block)
            length += len(block)
            block = answer.read(BLOCK_BYTES)
    promised = answer.headers.get("Content-Length")
    if promised is not None and promised.isdecimal() and length != int(promised):
        raise Refused(Code.TIMEOUT, f"broke off after {length} of {promised} bytes")


def _refusal(error: urllib.error.HTTPError) -> Refused:
    words = f"HTTP {error.code} {error.reason}"
    if error.code in (429, 503):
        asked = error.headers.get("Retry-After", "")
        return Paused(Code.RATE_LIMITED, words, float(asked) if asked.isdecimal() else None)
    if error.code >= 500:
        return Refused(Code.TIMEOUT, words)
    if error.code in (401, 403, 407):
        try:
            page = error.read(PAGE_BYTES).decode(errors="replace")
        except (OSError, http.client.HTTPException):
            page = ""
        if error.code == 407 or meaning(page) == Code.BLOCKED:
            return Refused(Code.BLOCKED, f"{words}: the host asks whether we are a robot, or who we are")
    return Refused(Code.UNAVAILABLE, words)
