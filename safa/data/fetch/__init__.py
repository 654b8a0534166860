"""Raw videos from somewhere else: one attempt is a ``Fetcher``'s, patience and tidiness are ``fetched``'s.

Every fault has one of four ends. ``unavailable``: the video is not there and won't be (final). ``blocked``:
the host refuses us altogether, so the run stops and goes on another day. ``rate_limited`` and ``timeout``:
tried again with growing pauses, and by the next run.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from safa.config.preprocess import MetadataSource, UrlFetch, YtDlpFetch
from safa.data.schema import TRANSIENT, Code, Refused
from safa.data.video import DecodeError, probe

log = logging.getLogger(__name__)

TRANSIT = ".fetched"  # folder of downloads that go when their clips are made
LONGEST_PAUSE = 300.0  # seconds, also if a host asks for more


class Fetcher(Protocol):
    """Gets one video in one attempt."""

    def get(self, video_id: str, part: Path) -> None:
        """Write the video to ``part``.

        Raises:
            Refused: with one of the four codes. For ``rate_limited`` it may carry ``pause``, in seconds.
        """
        ...


class Paused(Refused):
    """A transient refusal with the pause that the host asked for."""

    def __init__(self, code: Code, detail: str, pause: float | None = None) -> None:
        super().__init__(code, detail)
        self.pause = pause


def make_fetcher(config: UrlFetch | YtDlpFetch) -> Fetcher:
    """The fetcher that the settings ask for.

    Raises:
        UserError: yt-dlp is not installed, or its cookies are missing.
    """
    if isinstance(config, YtDlpFetch):
        from safa.data.fetch.ytdlp import YtDlpFetcher

        return YtDlpFetcher(config)
    if config.url.startswith(("http://", "https://")):
        from safa.data.fetch.web import WebFetcher

        return WebFetcher(config)
    from safa.data.fetch.bucket import BucketFetcher

    return BucketFetcher(config)


@contextmanager
def fetched(
    video_id: str, source: MetadataSource, fetcher: Fetcher, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Path]:
    """The video as a local file for the block; afterwards a download is gone unless it is to be kept.

    A video that lies in ``source.videos`` is used as it is. A download that an earlier, killed run finished
    is used too.

    Raises:
        Refused: with one of the four codes, or ``decode``: what came is no video.
    """
    assert source.fetch is not None
    kept = source.videos / f"{video_id}.mp4"
    if kept.is_file():
        yield kept
        return
    path = kept if source.fetch.keep else source.videos / TRANSIT / f"{video_id}.mp4"
    if not path.is_file():
        _download(video_id, path, source.fetch, fetcher, sleep)
    try:
        yield path
    finally:
        if not source.fetch.keep:
            path.unlink(missing_ok=True)


def _download(
    video_id: str,
    path: Path,
    config: UrlFetch | YtDlpFetch,
    fetcher: Fetcher,
    sleep: Callable[[float], None],
) -> None:
    """The file appears whole, and only if it is a video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part.mp4")  # yt-dlp chooses by the ending
    for attempt in range(1, config.attempts + 1):
        part.unlink(missing_ok=True)
        try:
            fetcher.get(video_id, part)
            try:
                probe(part)
            except DecodeError as error:
                raise Refused(Code.DECODE, f"what came is no video ({error})") from None
            part.replace(path)
            return
        except Refused as refusal:
            if refusal.code not in TRANSIENT or attempt == config.attempts:
                raise
            pause = _pause(config, attempt, getattr(refusal, "pause", None))
            log.warning("%s: %s; attempt %d in %.0f s", video_id, refusal.detail, attempt + 1, pause)
            sleep(pause)
        finally:
            part.unlink(missing_ok=True)


def _pause(config: UrlFetch | YtDlpFetch, attempt: int, asked: float | None) -> float:
    """Doubling, with up to a quarter more by chance, so that workers don't come back together."""
    grown: float = config.backoff_s * 2.0 ** (attempt - 1)
    return min(max(grown, asked or 0.0), LONGEST_PAUSE) * (1 + random.random() / 4)
