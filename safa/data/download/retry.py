"""A downloaded video as a local file: attempts are repeated, results checked, and files removed after use."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safa.config.preprocess import MetadataSource, UrlDownload, YtDlpDownload
from safa.data.download.base import Downloader, RetryAfterError
from safa.data.download.http import HttpDownloader, ObjectStoreDownloader
from safa.data.download.ytdlp import YtDlpDownloader
from safa.data.video import DecodeError, probe
from safa.errors import TRANSIENT, ClipError, FailureCode
from safa.files import (
    Location,
    atomic_file,
    delete,
    is_file,
    join,
    local_file,
    name_of,
    split,
)

log = logging.getLogger(__name__)

TRANSIT = ".downloads"  # folder of downloads that are deleted when their clips are made
LONGEST_PAUSE = 300.0  # seconds, also if a host asks for more


def make_downloader(config: UrlDownload | YtDlpDownload) -> Downloader:
    """The downloader that the settings ask for.

    Raises:
        UserError: yt-dlp is not installed, or its cookies are missing.
    """
    if isinstance(config, YtDlpDownload):
        return YtDlpDownloader(config)
    if config.url.startswith(("http://", "https://")):
        return HttpDownloader(config)
    return ObjectStoreDownloader(config)


def fetch(
    video_id: str, source: MetadataSource, downloader: Downloader, sleep: Callable[[float], None] = time.sleep
) -> Location:
    """Download a video unless it is there already; where it lies then.

    A video that lies in ``source.videos`` is used as it is, and so is a download that an earlier, killed run
    finished.

    Raises:
        ClipError: with one of the four codes of this package, or ``decode``: the download is not a video.
    """
    assert source.download is not None
    kept = join(source.videos, f"{video_id}.mp4")
    if is_file(kept):
        return kept
    path = kept if source.download.keep else join(source.videos, TRANSIT, f"{video_id}.mp4")
    if not is_file(path):
        _download(video_id, path, source.download, downloader, sleep)
    return path


@contextmanager
def downloaded(
    video_id: str,
    source: MetadataSource,
    downloader: Downloader,
    sleep: Callable[[float], None] = time.sleep,
    *,
    keep: bool = False,
) -> Iterator[Path]:
    """Give the block the video as a local file, as ``fetch`` does.

    Unless the settings or ``keep`` say otherwise, a download is deleted at the block's end.

    Raises:
        ClipError: as ``fetch``.
    """
    path = fetch(video_id, source, downloader, sleep)
    try:
        with local_file(path) as local:
            yield local
    finally:
        if name_of(split(path)[0]) == TRANSIT and not keep:
            delete(path)


def _download(
    video_id: str,
    path: Location,
    config: UrlDownload | YtDlpDownload,
    downloader: Downloader,
    sleep: Callable[[float], None],
) -> None:
    """Write ``path`` atomically, and only if it is a video; wait and try again where that may help."""
    for attempt in range(1, config.attempts + 1):
        try:
            with atomic_file(path) as temporary:
                downloader.get(video_id, temporary)
                _check_video(temporary)
            return
        except ClipError as error:
            if error.code not in TRANSIENT or attempt == config.attempts:
                raise
            asked = error.pause if isinstance(error, RetryAfterError) else None
            pause = _pause(config, attempt, asked)
            log.warning("%s: %s; attempt %d in %.0f s", video_id, error.detail, attempt + 1, pause)
            sleep(pause)


def _check_video(path: Path) -> None:
    try:
        probe(path)
    except DecodeError as error:
        raise ClipError(FailureCode.DECODE, f"the download is not a video ({error})") from None


def _pause(config: UrlDownload | YtDlpDownload, attempt: int, asked: float | None) -> float:
    """Seconds until the next attempt: doubling, plus up to a quarter so that workers spread out."""
    backoff: float = config.backoff_s * 2.0 ** (attempt - 1)
    return min(max(backoff, asked or 0.0), LONGEST_PAUSE) * (1 + random.random() / 4)
