"""The guard before the page: what it lets through, cut off, and why it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from safa.app.guard import FORM_BYTES, KEPT_UPLOADS, MESSAGE_BYTES, Guard

LARGEST = 10_000  # bytes of an upload


async def _reads_all(scope: Any, receive: Any, send: Any) -> None:
    """A server that reads the whole request, as Gradio's does, and answers how much came."""
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError(f"hung up after {length} bytes")
        length += len(message["body"])
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(length).encode()})


def _ask(
    folder: Path, method: str, path: str, body: Iterable[bytes] = (b"",), **headers: str
) -> tuple[int, str]:
    """Status and text of the answer."""
    sent: list[Any] = []
    parts = list(body)

    async def receive() -> Any:
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message: Any) -> None:
        sent.append(message)

    pairs = {"host": "127.0.0.1:7860"} | {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {"type": "http", "method": method, "path": path}
    scope |= {"headers": [(name.encode(), value.encode()) for name, value in pairs.items()]}
    guard = Guard(_reads_all, ["127.0.0.1"], folder, LARGEST)
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], sent[1]["body"].decode()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/config", 200),
        ("GET", "/assets/a.js", 200),
        ("GET", "/gradio_api/file=/tmp/a b\n.mp4", 200),
        ("GET", "/gradio_api/heartbeat/x", 200),
        ("POST", "/gradio_api/queue/join", 200),
        ("POST", "/gradio_api/run/predict", 200),
        ("POST", "/login", 200),
        ("GET", "/gradio_api/proxy=http://127.0.0.1", 404),
        ("GET", "/gradio_api/deep_link", 404),
        ("GET", "/config\n", 404),
        ("POST", "/", 404),
        ("POST", "/gradio_api/process_recording", 404),
        ("POST", "/gradio_api/file=/etc/passwd", 404),
        ("DELETE", "/gradio_api/upload", 404),
    ],
)
def test_what_is_part_of_the_page(method: str, path: str, status: int, tmp_path: Path) -> None:
    assert _ask(tmp_path, method, path)[0] == status


def test_a_request_is_cut(tmp_path: Path) -> None:
    """By what it announces, and by what comes."""
    join, upload = "/gradio_api/queue/join", "/gradio_api/upload"
    assert _ask(tmp_path, "POST", join, [b"x" * MESSAGE_BYTES])[1] == str(MESSAGE_BYTES)
    assert _ask(tmp_path, "POST", join, content_length=str(MESSAGE_BYTES + 1))[0] == 413
    assert _ask(tmp_path, "POST", join, content_length="-5")[0] == 413
    with pytest.raises(ConnectionError, match=f"after {MESSAGE_BYTES} bytes"):
        _ask(tmp_path, "POST", join, [b"x" * (MESSAGE_BYTES // 4)] * 9)
    assert _ask(tmp_path, "POST", upload, [b"x" * LARGEST])[0] == 200
    assert _ask(tmp_path, "POST", upload, content_length=str(LARGEST + FORM_BYTES + 1))[0] == 413
    with pytest.raises(ConnectionError):
        _ask(tmp_path, "POST", upload + "/", [b"x" * LARGEST] * 9)


def test_uploads_do_not_fill_the_disk(tmp_path: Path) -> None:
    for number in range(KEPT_UPLOADS + 1):
        assert _ask(tmp_path, "POST", "/gradio_api/upload", [b"x"])[0] == 200
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "a.png").write_bytes(bytes(LARGEST))
    status, text = _ask(tmp_path, "POST", "/gradio_api/upload", [b"x"])
    assert (status, text) == (413, "refused: too many files are kept here; they go in an hour\n")
    assert _ask(tmp_path, "POST", "/gradio_api/queue/join", [b"x"])[0] == 200


def test_other_sites_may_link_here_and_no_more(tmp_path: Path) -> None:
    link = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert _ask(tmp_path, "GET", "/", **link)[0] == 200
    assert _ask(tmp_path, "GET", "/", **link | {"sec_fetch_mode": "no-cors"})[0] == 403
    assert _ask(tmp_path, "POST", "/login", **link)[0] == 403
    assert _ask(tmp_path, "GET", "/", sec_fetch_site="same-origin")[0] == 200
