"""Raw videos from somewhere else: one attempt is a ``Downloader``'s, patience and tidiness are ``downloaded``'s.

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

from safa.config.preprocess import MetadataSource, UrlDownload, YtDlpDownload
from safa.data.download.base import Downloader
from safa.data.video import DecodeError, probe
from safa.errors import TRANSIENT, ClipError, FailureCode

log = logging.getLogger(__name__)

TRANSIT = ".downloads"  # folder of downloads that go when their clips are made
LONGEST_PAUSE = 300.0  # seconds, also if a host asks for more


def make_downloader(config: UrlDownload | YtDlpDownload) -> Downloader:
    """The downloader that the settings ask for.

    Raises:
        UserError: yt-dlp is not installed, or its cookies are missing.
    """
    if isinstance(config, YtDlpDownload):
        from safa.data.download.ytdlp import YtDlpDownloader

        return YtDlpDownloader(config)
    if config.url.startswith(("http://", "https://")):
        from safa.data.download.http import HttpDownloader

        return HttpDownloader(config)
    from safa.data.download.http import ObjectStoreDownloader

    return ObjectStoreDownloader(config)


@contextmanager
def downloaded(
    video_id: str, source: MetadataSource, downloader: Downloader, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Path]:
    """The video as a local file for the block; afterwards a download is gone unless it is to be kept.

    A video that lies in ``source.videos`` is used as it is. A download that an earlier, killed run finished
    is used too.

    Raises:
        ClipError: with one of the four codes, or ``decode``: what came is no video.
    """
    assert source.download is not None
    kept = source.videos / f"{video_id}.mp4"
    if kept.is_file():
        yield kept
        return
    path = kept if source.download.keep else source.videos / TRANSIT / f"{video_id}.mp4"
    if not path.is_file():
        _download(video_id, path, source.download, downloader, sleep)
    try:
        yield path
    finally:
        if not source.download.keep:
            path.unlink(missing_ok=True)


def _download(
    video_id: str,
    path: Path,
    config: UrlDownload | YtDlpDownload,
    downloader: Downloader,
    sleep: Callable[[float], None],
) -> None:
    """The file appears whole, and only if it is a video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part.mp4")  # yt-dlp chooses by the ending
    for attempt in range(1, config.attempts + 1):
        part.unlink(missing_ok=True)
        try:
            downloader.get(video_id, part)
            try:
                probe(part)
            except DecodeError as error:
                raise ClipError(FailureCode.DECODE, f"what came is no video ({error})") from None
            part.replace(path)
            return
        except ClipError as refusal:
            if refusal.code not in TRANSIENT or attempt == config.attempts:
                raise
            pause = _pause(config, attempt, getattr(refusal, "pause", None))
            log.warning("%s: %s; attempt %d in %.0f s", video_id, refusal.detail, attempt + 1, pause)
            sleep(pause)
        finally:
            part.unlink(missing_ok=True)


def _pause(config: UrlDownload | YtDlpDownload, attempt: int, asked: float | None) -> float:
    """Doubling, with up to a quarter more by chance, so that workers don't come back together."""
    grown: float = config.backoff_s * 2.0 ** (attempt - 1)
    return min(max(grown, asked or 0.0), LONGEST_PAUSE) * (1 + random.random() / 4)
