"""Downloads from hosts that send too much, too slowly, or us elsewhere. All of them are on loopback."""

from __future__ import annotations

import ipaddress
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from safa.asset_catalogue import CATALOGUE, Asset
from safa.asset_download import download_asset
from safa.config.preprocess import UrlDownload
from safa.data.download.http import HttpDownloader
from safa.errors import ClipError, FailureCode, UserError
from safa.web import is_public


class Host(BaseHTTPRequestHandler):
    """What it does stands in the path: ``/to/URL``, ``/endless``, ``/promise``, ``/slow`` and so on."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Tests are quiet."""

    def do_GET(self) -> None:
        what = self.path.partition("?")[0].strip("/")
        try:
            self._answer(what)
        except OSError:  # the client has hung up
            self.close_connection = True

    def _answer(self, what: str) -> None:
        if what.startswith("to/"):
            self.send_response(302)
            self.send_header("Location", what.removeprefix("to/"))
            self.end_headers()
            return
        if what == "slow-headers":
            for _ in range(100):
                self.wfile.write(b"H")
                time.sleep(0.1)
            return
        self.send_response(200)
        self.send_header("Content-Type", "video/mp4")
        if what == "promise":
            self.send_header("Content-Length", "50000000000000")
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b"x" if what == "slow" else b"x" * 2**16)
            time.sleep(0.1 if what == "slow" else 0)


@pytest.fixture(scope="module")
def ports() -> Iterator[tuple[int, int]]:
    """Two hosts: the one that is asked, and one that nobody named."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), Host) for _ in range(2)]
    for server in servers:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield servers[0].server_port, servers[1].server_port
    for server in servers:
        server.shutdown()
        server.server_close()


def _video(port: int, path: str, folder: Path, host: str = "127.0.0.1") -> ClipError:
    config = UrlDownload(kind="url", url=f"http://{host}:{port}/{path}?{{video_id}}", timeout_s=2)
    with pytest.raises(ClipError) as error:
        HttpDownloader(config).get("a", folder / "a.mp4")
    return error.value


def _asset(port: int, path: str, folder: Path) -> str:
    known = vars(next(iter(CATALOGUE)))
    asset = Asset(**known | {"file": "a.pth", "url": f"http://127.0.0.1:{port}/{path}", "sha256": None})
    with pytest.raises(UserError) as error:
        download_asset(asset, folder)
    assert not (folder / "a.pth").exists()
    return str(error.value)


@pytest.mark.parametrize(
    ("limits", "path", "named"),
    [
        ("download_bytes=1e6,weights_bytes=1e6", "endless", "_bytes"),
        ("", "promise", "_bytes"),
        ("download_seconds=0,download_pace=50", "slow", "download_seconds"),
        ("download_pace=1", "slow", "download_pace"),
    ],
)
def test_a_limit_ends_a_download_and_is_named(
    limits: str,
    path: str,
    named: str,
    ports: tuple[int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SAFA_LIMITS", limits)
    began = time.monotonic()
    error = _video(ports[0], path, tmp_path)
    assert f"{named}=NUMBER" in error.detail
    assert error.code == (FailureCode.TIMEOUT if named == "download_pace" else FailureCode.UNAVAILABLE)
    assert f"{named}=NUMBER" in _asset(ports[0], path, tmp_path)
    assert time.monotonic() - began < 8


def test_headers_that_never_end(
    ports: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAFA_LIMITS", "download_pace=1")
    began = time.monotonic()
    assert _video(ports[0], "slow-headers", tmp_path).code == FailureCode.TIMEOUT
    assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "127.1", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]"]
)
def test_a_redirect_to_this_machine_is_refused(host: str, ports: tuple[int, int], tmp_path: Path) -> None:
    """By number and by name; the other host would answer."""
    target = f"to/http://{host}:{ports[1]}/endless"
    error = _video(ports[0], target, tmp_path)
    assert error.code == FailureCode.UNAVAILABLE
    assert "which is not public" in error.detail
    assert "which is not public" in _asset(ports[0], target, tmp_path)


def test_a_redirect_to_a_file_or_to_the_same_host(
    ports: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for scheme in ("file:///etc/passwd", "ftp://127.0.0.1/a"):
        error = _video(ports[0], f"to/{scheme}", tmp_path)
        assert re.search("is not allowed|sends us from http to", error.detail)
    monkeypatch.setenv("SAFA_LIMITS", "download_bytes=1e6")
    same = f"to/http://127.0.0.1:{ports[0]}/endless"
    assert "download_bytes" in _video(ports[0], same, tmp_path).detail  # it was followed


def test_addresses_that_are_not_public() -> None:
    inside = ["127.0.0.1", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1"]
    inside += ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1"]
    inside += ["ff02::1", "fec0::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1"]
    inside += ["2002:7f00:1::1", "2001:0:7f00:1::1"]
    for text in inside:
        assert not is_public(ipaddress.ip_address(text)), text
    for text in ("8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"):
        assert is_public(ipaddress.ip_address(text)), text
