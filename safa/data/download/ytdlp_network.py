"""yt-dlp's network, kept out of ours: it connects to the host that the settings name and to public addresses.

yt-dlp has several ways to the web. One is left, that of Python's own library, whose connections are checked
as in ``safa.web``; ffmpeg, which it would let download some streams by itself, is hidden from it meanwhile.
"""

from __future__ import annotations

import functools
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from safa.errors import ClipError, FailureCode
from safa.web import connect_to_public, must_be_public

# How a host may send a video: each of these is read by yt-dlp itself, through its requests.
PROTOCOLS = frozenset(
    {"http", "https", "m3u8", "m3u8_native", "http_dash_segments", "http_dash_segments_generator", "ism"}
)


def checked(library: Any, page: str) -> Any:
    """The class ``YoutubeDL`` with a network that is checked.

    Args:
        library: the module ``yt_dlp``.
        page: an address on the host that the settings name, which need not be public.
    """
    from yt_dlp.networking._urllib import HTTPHandler, UrllibRH

    origin = urlsplit(page).netloc

    class CheckedRH(UrllibRH):
        """Requests by ``urllib``; yt-dlp wants the end of its name."""

        _SUPPORTED_URL_SCHEMES = ("http", "https", "data")

        def _create_instance(self, **arguments: Any) -> Any:
            opener = super()._create_instance(**arguments)
            for handler in opener.handlers:
                if isinstance(handler, HTTPHandler):
                    handler.do_open = functools.partial(_open, handler.do_open, origin)
            return opener

    class Checked(library.YoutubeDL):
        """yt-dlp without its other ways to the web."""

        def build_request_director(self, handlers: object, preferences: object = None) -> Any:
            return super().build_request_director([CheckedRH])

        def dl(self, name: str, info: dict[str, Any], *arguments: Any, **options: Any) -> Any:
            protocols = set(library.utils.determine_protocol(info).split("+"))
            if not protocols <= PROTOCOLS:
                what = f"the host sends it by {', '.join(sorted(protocols - PROTOCOLS))}, which is not read"
                raise ClipError(FailureCode.UNAVAILABLE, what)
            ffmpeg, self.params["ffmpeg_location"] = self.params.get("ffmpeg_location"), "/nowhere"
            try:
                return super().dl(name, info, *arguments, **options)
            finally:
                self.params["ffmpeg_location"] = ffmpeg  # which joins pictures and sound afterwards

    return Checked


def _open(do_open: Any, origin: str, make: Any, request: urllib.request.Request, **options: Any) -> Any:
    """What yt-dlp calls to send a request, with a connection that is checked."""

    def connection(*arguments: Any, **settings: Any) -> Any:
        made = make(*arguments, **settings)
        if must_be_public(request, origin):
            made._create_connection = connect_to_public
        return made

    return do_open(connection, request, **options)
