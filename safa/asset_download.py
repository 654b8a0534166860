"""Downloads of files of others, one at a time, when a person asks for one; nothing else calls this.

A download that broke off is continued if the host still has the same file. A file counts only when its hash
is as published. Where nobody has published one, its SHA-256 is kept beside it, and compared later.
"""

from __future__ import annotations

import http.client
import urllib.error
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safa.asset_catalogue import Asset, expected_sha256, file_sha256
from safa.decimals import whole
from safa.errors import UserError
from safa.files import atomic_write
from safa.limits import check_limit
from safa.web import blocks, opened

TIMEOUT_S = 30.0  # without a byte
AGENT = "safa-assets"

Report = Callable[[int, int | None], None]  # bytes that are there, and of how many, if that is known


def download_asset(asset: Asset, folder: Path, report: Report = lambda done, total: None) -> Path:
    """Download a file into a folder; one that is there already is only checked.

    Returns:
        Where it is.

    Raises:
        UserError: it has no public address, the host does not give it, or its hash is another.
    """
    if asset.url is None:
        fix = f"Get it from {asset.owner}." if not asset.package else "Run `make install`."
        raise UserError("has no public address", asset.file, fix)
    path = folder / asset.file
    if path.is_file():
        _check_hash(asset, path, path)
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial, tag = folder / f"{asset.file}.part", folder / f"{asset.file}.part.tag"
    try:
        _fetch(asset.url, partial, tag, report)
    except urllib.error.HTTPError as error:
        with error:
            what = f"the host answers {error.code} {error.reason}"
            raise UserError(what, asset.url, _by_hand(asset)) from None
    except (TimeoutError, http.client.HTTPException, OSError) as error:
        fix = f"Run the same command again to continue. {_by_hand(asset)}"
        raise UserError(f"the download broke off ({type(error).__name__}: {error})", asset.url, fix) from None
    tag.unlink(missing_ok=True)
    try:
        _check_hash(asset, partial, path)
    except UserError:
        partial.unlink()
        raise
    if asset.sha256 is None:
        atomic_write(Path(f"{path}.sha256"), file_sha256(partial) + "\n")
    partial.replace(path)
    return path


def _by_hand(asset: Asset) -> str:
    return f"Or get it by hand from {asset.owner} and name it {asset.file}."


def _check_hash(asset: Asset, path: Path, final: Path) -> None:
    expected, found = expected_sha256(asset, final), file_sha256(path)
    if not found.startswith(expected):
        fix = "The file is not the one that is meant: delete it if it is there, and don't use it."
        raise UserError(f"SHA-256 is {found}, not {expected}...", str(final), fix)


def _fetch(url: str, partial: Path, tag: Path, report: Report) -> None:
    """Append what is missing to the part that is there, if the host says that the file is the same."""
    have = partial.stat().st_size if partial.is_file() and tag.is_file() else 0
    headers = {"User-Agent": AGENT}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag.read_text(encoding="utf-8").strip()}
    try:
        with opened(url, headers, TIMEOUT_S) as answer:
            sent = answer.headers.get("Content-Range", "")
            is_rest = answer.status == 206 and sent.startswith(f"bytes {have}-")
            _save(answer, partial, tag, have if is_rest else 0, report)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        error.close()
        partial.unlink()  # longer than the file is now
        return _fetch(url, partial, tag, report)
    return None


def _save(answer: http.client.HTTPResponse, partial: Path, tag: Path, have: int, report: Report) -> None:
    received = blocks(answer, "weights_bytes", str(partial), have)
    block = next(received, b"")
    if answer.headers.get_content_type() == "text/html" or (not have and block.lstrip()[:1] == b"<"):
        raise OSError("the host sent a web page instead of the file")
    validator = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    with suppress(FileNotFoundError):
        tag.unlink()
    if validator and not validator.startswith("W/"):
        tag.write_text(validator, encoding="utf-8")
    length = whole(answer.headers.get("Content-Length", ""))
    total = None if length is None else have + length
    check_limit("weights_bytes", total or 0, str(partial))
    with partial.open("ab" if have else "wb") as file:
        while block:
            file.write(block)
            have += len(block)
            report(have, total)
            block = next(received, b"")
    if total is not None and have != total:
        raise OSError(f"the connection ended after {have} of {total} bytes")
