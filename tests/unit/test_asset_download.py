"""Downloads from a server on loopback: resumed, checked, refused. The real addresses are never asked."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

import pytest

from safa import asset_catalogue
from safa.asset_catalogue import CATALOGUE, Asset, check_assets
from safa.asset_download import download_asset
from safa.cli import main
from safa.data.detectors.dlib_faces import IDENTITY_FILE, POINTS_FILE
from safa.data.detectors.face_alignment import DETECTOR_FILES, LANDMARK_FILE
from safa.errors import UserError

DATA = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(DATA).hexdigest()


class Host(BaseHTTPRequestHandler):
    """Serves ``data``; breaks off after ``breaks`` bytes, once."""

    data: ClassVar[bytes] = DATA
    breaks: ClassVar[int | None] = None
    kind: ClassVar[str] = "application/octet-stream"
    asked: ClassVar[list[str | None]] = []

    def log_message(self, format: str, *arguments: object) -> None:
        """Tests are quiet."""

    def do_GET(self) -> None:
        tag = f'"{hashlib.sha256(self.data).hexdigest()[:8]}"'
        wanted = self.headers.get("Range")
        Host.asked.append(wanted)
        start = 0
        if self.path == "/gone":
            self.send_error(404)
            return
        if wanted and self.headers.get("If-Range") == tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        rest = self.data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(self.data) - 1}/{len(self.data)}")
        self.send_header("ETag", tag)
        self.send_header("Content-Type", self.kind)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        stop, Host.breaks = Host.breaks, None
        self.wfile.write(rest[:stop])
        self.close_connection = True


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    fresh = {"data": DATA, "breaks": None, "kind": "application/octet-stream", "asked": []}
    for name, value in fresh.items():
        monkeypatch.setattr(Host, name, value)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def asset(url: str | None, sha256: str | None = DIGEST[:10]) -> Asset:
    return Asset("net.pth", "tests", "none", "https://owner.example", sha256, url)


def test_a_file_is_downloaded_once(address: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    path = download_asset(asset(f"{address}/x"), tmp_path / "new", lambda *done: seen.append(done))
    assert path.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert [each.name for each in path.parent.iterdir()] == ["net.pth"]
    assert download_asset(asset(f"{address}/x"), tmp_path / "new") == path
    assert Host.asked == [None]


def test_a_broken_download_is_continued(address: str, tmp_path: Path) -> None:
    Host.breaks = 500_000
    with pytest.raises(UserError, match=r"the download broke off.*Run the same command again to continue"):
        download_asset(asset(f"{address}/x"), tmp_path)
    assert not (tmp_path / "net.pth").exists()
    have = (tmp_path / "net.pth.part").stat().st_size
    assert download_asset(asset(f"{address}/x"), tmp_path).read_bytes() == DATA
    assert Host.asked == [None, f"bytes={have}-"]
    assert 0 < have <= 500_000


def test_another_file_at_the_host_is_not_joined_to_the_old_part(address: str, tmp_path: Path) -> None:
    Host.breaks = 500_000
    with pytest.raises(UserError, match="broke off"):
        download_asset(asset(f"{address}/x", None), tmp_path)
    Host.data = DATA[::-1]
    assert download_asset(asset(f"{address}/x", None), tmp_path).read_bytes() == DATA[::-1]


def test_a_wrong_hash_leaves_nothing(address: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"SHA-256 is {DIGEST}, not 0123456789"):
        download_asset(asset(f"{address}/x", "0123456789"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unpublished_hash_is_kept_and_compared(address: str, tmp_path: Path) -> None:
    unpublished = asset(f"{address}/x", None)
    path = download_asset(unpublished, tmp_path)
    assert (tmp_path / "net.pth.sha256").read_text().strip() == DIGEST
    assert check_assets([tmp_path], [unpublished])[0].state == "present"
    path.unlink()
    Host.data = DATA[::-1]
    with pytest.raises(UserError, match=f"not {DIGEST}"):
        download_asset(unpublished, tmp_path)
    path.write_bytes(b"damaged")
    assert check_assets([tmp_path], [unpublished])[0].state == "other sha256"


def test_what_is_no_file_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the host answers 404.*by hand from https://owner\.example"):
        download_asset(asset(f"{address}/gone"), tmp_path)
    Host.kind = "text/html"
    with pytest.raises(UserError, match="a web page instead of the file"):
        download_asset(asset(f"{address}/x"), tmp_path)
    with pytest.raises(UserError, match=r"net\.pth: has no public address\. Get it from https://owner"):
        download_asset(asset(None), tmp_path)


def test_the_command_shows_the_licence_and_wants_a_yes(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with patch.object(asset_catalogue, "CATALOGUE", (asset(f"{address}/x"),)):
        words = ["assets", "download", "net.pth", "--folder", str(tmp_path)]
        assert main(words) == 2
        said = capsys.readouterr()
        assert "licence: none" in said.out
        assert "its licence is not accepted yet. Read it, and add --yes" in said.err
        assert Host.asked == []
        assert main([*words, "--yes"]) == 0
        assert DIGEST in capsys.readouterr().out
        assert main(["assets", "download", "other", "--yes"]) == 2


def test_the_table_holds_all_files_of_all_backends() -> None:
    names = {each.file for each in CATALOGUE}
    assert {name for files in DETECTOR_FILES.values() for name in files} <= names
    assert {LANDMARK_FILE, POINTS_FILE, IDENTITY_FILE} <= names
    assert len(names) == len(CATALOGUE)
    for each in CATALOGUE:
        assert each.url is None or each.url.startswith("https://")


def test_names_of_torch_hub_count(tmp_path: Path) -> None:
    (tmp_path / "vgg19-dcbb9e9d.pth").write_bytes(b"x")
    (vgg,) = (status for status in check_assets([tmp_path]) if status.asset.file == "vgg19.pth")
    assert vgg.path == tmp_path / "vgg19-dcbb9e9d.pth"
    assert vgg.state == "other sha256"
