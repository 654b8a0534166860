"""Downloads with yt-dlp, used as a library. Only this file and ``ytdlp_network`` know it."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import random
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import imageio_ffmpeg

from safa.config.preprocess import YtDlpDownload
from safa.data.download.base import classify_error
from safa.data.download.ytdlp_network import checked
from safa.errors import ClipError, FailureCode, UserError
from safa.files import is_file, local_file, shown
from safa.limits import check_limit, limit, over_limit
from safa.media_types import CONTAINERS
from safa.web import Pace

MEGABYTE = 2**20
INSTALL = "Run `make install`, or .venv/bin/python -m pip install -e '.[download]'."
_TO_JOIN = ["-protocol_whitelist", "file", "-format_whitelist", f"{CONTAINERS},aac,mp3"]
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


class YtDlpDownloader:
    """A ``Downloader`` over yt-dlp.

    Raises:
        UserError: yt-dlp is not installed, or the cookies are missing.
    """

    def __init__(self, config: YtDlpDownload, sleep: Callable[[float], None] = time.sleep) -> None:
        if importlib.util.find_spec("yt_dlp") is None:
            raise UserError("yt-dlp is not installed", "", INSTALL)
        if find_deno() is None:
            raise UserError("there is no deno, which runs the JavaScript that YouTube asks for", "", INSTALL)
        if config.cookies is not None and not is_file(config.cookies):
            raise UserError("no such cookies file", shown(config.cookies), "Check source.download.cookies.")
        self._config, self._sleep = config, sleep

    def get(self, video_id: str, path: Path) -> None:
        """Download the video to ``path``."""
        self._sleep(random.uniform(*self._config.sleep_s))
        library: Any = importlib.import_module("yt_dlp")
        page = self._config.page.replace("{video_id}", video_id)
        try:
            with ExitStack() as stack:
                options = _options(self._config, path)
                if self._config.cookies is not None:
                    options["cookiefile"] = str(stack.enter_context(local_file(self._config.cookies)))
                stack.enter_context(checked(library, page)(options)).download([page])
        except library.utils.YoutubeDLError as error:
            raise clip_error(str(error)) from None
        except OSError as error:
            raise ClipError(FailureCode.TIMEOUT, f"{type(error).__name__}: {error}") from None
        if not path.is_file():
            raise ClipError(
                FailureCode.UNAVAILABLE, "yt-dlp wrote no file: a live stream, or nothing to download"
            )


def find_deno() -> str | None:
    """The program that runs JavaScript: the package's own, or one that is installed; None without any."""
    if importlib.util.find_spec("deno") is not None:
        package: Any = importlib.import_module("deno")
        with suppress(FileNotFoundError):
            return str(package.find_deno_bin())
    return shutil.which("deno")


def clip_error(message: str) -> ClipError:
    """yt-dlp's message as an error with a code. An unknown one may be transient, so it is a ``timeout``."""
    detail = " ".join(_ANSI.sub("", message).removeprefix("ERROR: ").split())
    return ClipError(classify_error(detail) or FailureCode.TIMEOUT, detail)


class _Bounds:
    """Ends a download that passes a limit; yt-dlp itself asks only for the size that a host names."""

    def __init__(self, name: str) -> None:
        self._name, self._pace = name, Pace(name)

    def __call__(self, progress: Mapping[str, Any]) -> None:
        """What yt-dlp calls with each block.

        Raises:
            ClipError: a limit is passed.
        """
        done = int(progress.get("downloaded_bytes") or 0)
        try:
            check_limit("download_bytes", done, self._name)
            is_slow = self._pace.is_slow(done)
        except UserError as error:
            raise ClipError(FailureCode.UNAVAILABLE, str(error)) from None
        if is_slow and progress.get("status") == "downloading":
            raise ClipError(FailureCode.TIMEOUT, str(over_limit("download_pace", self._name)))


def _options(config: YtDlpDownload, path: Path) -> dict[str, Any]:
    options: dict[str, Any] = {
        "format": config.format,
        # A percent sign in a folder's name would start a field of yt-dlp's template.
        "outtmpl": str(path).replace("%", "%%"),
        "ffmpeg_location": imageio_ffmpeg.get_ffmpeg_exe(),
        "socket_timeout": config.timeout_s,
        "retries": 0,  # `retry` repeats attempts, with its own pauses
        "fragment_retries": 3,
        "extractor_retries": 0,
        "noplaylist": True,
        "nopart": True,
        "overwrites": True,
        "cachedir": False,
        "quiet": True,
        "noprogress": True,
        "logger": logging.getLogger("yt_dlp"),
        "max_filesize": limit("download_bytes"),
        "progress_hooks": [_Bounds(path.name)],
        "hls_prefer_native": True,
        "js_runtimes": {"deno": {"path": find_deno()}},
        # ffmpeg joins pictures and sound, does nothing else, and opens nothing that a list in them names.
        "fixup": "never",
        "postprocessor_args": {"merger+ffmpeg_i": _TO_JOIN},
    }
    if config.proxy is not None:
        options["proxy"] = config.proxy
    if config.rate_limit_mb is not None:
        options["ratelimit"] = config.rate_limit_mb * MEGABYTE
    return options
