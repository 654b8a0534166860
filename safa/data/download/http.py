"""Downloads over http and https with the standard library, and from object stores (s3, gs) with pyarrow."""

from __future__ import annotations

import http.client
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import cast
from urllib.parse import quote

from safa.config.preprocess import UrlDownload
from safa.data.download.base import RetryAfterError, classify_error
from safa.decimals import whole
from safa.errors import ClipError, FailureCode, UserError
from safa.files import copy_object
from safa.limits import check_limit
from safa.web import Readable, RefusedRedirectError, blocks, opened

PAGE_BYTES = 2**16  # of an error page, enough to see what it says
AGENT = "safa-preprocess"


class HttpDownloader:
    """A ``Downloader`` over a URL template."""

    def __init__(self, config: UrlDownload) -> None:
        self._config = config

    def get(self, video_id: str, path: Path) -> None:
        """Stream the video to ``path``; an answer that is a web page, cut short or stalled is an error."""
        url = self._config.url.replace("{video_id}", quote(video_id, safe=""))
        try:
            with opened(url, {"User-Agent": AGENT}, self._config.timeout_s) as answer:
                _save(answer, path, url)
        except UserError as error:  # a limit: a further attempt would come to the same
            raise ClipError(FailureCode.UNAVAILABLE, str(error)) from None
        except RefusedRedirectError as error:
            raise ClipError(FailureCode.UNAVAILABLE, str(error)) from None
        except urllib.error.HTTPError as error:
            with error:
                raise _clip_error(error) from None
        except (TimeoutError, http.client.HTTPException, OSError) as error:
            raise ClipError(FailureCode.TIMEOUT, f"{type(error).__name__}: {error}") from None


def _save(answer: http.client.HTTPResponse, path: Path, url: str) -> None:
    promised = whole(answer.headers.get("Content-Length", ""))
    check_limit("download_bytes", promised or 0, url)
    received = blocks(answer, "download_bytes", url)
    block = next(received, b"")
    if answer.headers.get_content_type() == "text/html" or block.lstrip()[:1] == b"<":
        page = _page(block, received)
        if classify_error(page) == FailureCode.BLOCKED:
            raise ClipError(FailureCode.BLOCKED, "the host wants proof that we are no robot")
        raise ClipError(FailureCode.UNAVAILABLE, "the host sent a web page instead of a video")
    length = 0
    with path.open("wb") as file:
        while block:
            file.write(block)
            length += len(block)
            block = next(received, b"")
    if promised is not None and length != promised:
        raise ClipError(FailureCode.TIMEOUT, f"the connection ended after {length} of {promised} bytes")


def _page(page: bytes, received: Iterator[bytes]) -> str:
    while len(page) < PAGE_BYTES and (block := next(received, b"")):
        page += block
    return page[:PAGE_BYTES].decode(errors="replace")


def _clip_error(error: urllib.error.HTTPError) -> ClipError:
    status = f"HTTP {error.code} {error.reason}"
    if error.code in (429, 503):
        asked = whole(error.headers.get("Retry-After", ""))
        return RetryAfterError(FailureCode.RATE_LIMITED, status, asked)
    if error.code >= 500:
        return ClipError(FailureCode.TIMEOUT, status)
    if error.code in (401, 403, 407):
        try:
            page = _page(b"", blocks(cast(Readable, error.fp), "download_bytes", error.url))
        except (OSError, http.client.HTTPException, UserError):
            page = ""
        if error.code == 407 or classify_error(page) == FailureCode.BLOCKED:
            return ClipError(
                FailureCode.BLOCKED, f"{status}: the host wants proof that we are no robot, or a login"
            )
    return ClipError(FailureCode.UNAVAILABLE, status)


class ObjectStoreDownloader:
    """A ``Downloader`` over a template such as ``s3://bucket/{video_id}.mp4``."""

    def __init__(self, config: UrlDownload) -> None:
        self._url = config.url

    def get(self, video_id: str, path: Path) -> None:
        """Copy the object to ``path``."""
        copy_object(self._url.replace("{video_id}", video_id), path)
