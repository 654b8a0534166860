"""Videos over http and https, with the standard library.

XXX Videos from object stores (s3, gs) or other mounts, through pyarrow's file systems."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

from safa.config.preprocess import UrlDownload
from safa.data.download.base import Paused
from safa.data.download.classify import classify_error
from safa.errors import ClipError, FailureCode
from safa.files import copy_object

BLOCK_BYTES = 2**18
PAGE_BYTES = 2**16  # of an error page, enough to see what it says
AGENT = "safa-preprocess"


class HttpDownloader:
    """A ``Downloader`` over a URL template."""

    def __init__(self, config: UrlDownload) -> None:
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
            raise ClipError(FailureCode.TIMEOUT, f"{type(error).__name__}: {error}") from None


def _save(answer: http.client.HTTPResponse, part: Path) -> None:
    block = answer.read(BLOCK_BYTES)
    if answer.headers.get_content_type() == "text/html" or block.lstrip()[:1] == b"<":
        page = block[:PAGE_BYTES].decode(errors="replace")
        if classify_error(page) == FailureCode.BLOCKED:
            raise ClipError(FailureCode.BLOCKED, "the host asks whether we are a robot")
        raise ClipError(FailureCode.UNAVAILABLE, "a web page came instead of a video")
    length = 0
    with part.open("wb") as file:
        while block:
            file.write(block)
            length += len(block)
            block = answer.read(BLOCK_BYTES)
    promised = answer.headers.get("Content-Length")
    if promised is not None and promised.isdecimal() and length != int(promised):
        raise ClipError(FailureCode.TIMEOUT, f"broke off after {length} of {promised} bytes")


def _refusal(error: urllib.error.HTTPError) -> ClipError:
    words = f"HTTP {error.code} {error.reason}"
    if error.code in (429, 503):
        asked = error.headers.get("Retry-After", "")
        return Paused(FailureCode.RATE_LIMITED, words, float(asked) if asked.isdecimal() else None)
    if error.code >= 500:
        return ClipError(FailureCode.TIMEOUT, words)
    if error.code in (401, 403, 407):
        try:
            page = error.read(PAGE_BYTES).decode(errors="replace")
        except (OSError, http.client.HTTPException):
            page = ""
        if error.code == 407 or classify_error(page) == FailureCode.BLOCKED:
            return ClipError(
                FailureCode.BLOCKED, f"{words}: the host asks whether we are a robot, or who we are"
            )
    return ClipError(FailureCode.UNAVAILABLE, words)


class ObjectStoreDownloader:
    """A ``Downloader`` over a template such as ``s3://bucket/{video_id}.mp4``."""

    def __init__(self, config: UrlDownload) -> None:
        self._url = config.url

    def get(self, video_id: str, part: Path) -> None:
        """Copy the object to ``part``."""
        copy_object(self._url.replace("{video_id}", video_id), part)
