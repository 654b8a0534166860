"""Attacks on the running page: by other sites, by other names, on files; and what is left when it ends."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from safa.app.page import QUEUE_LENGTH
from safa.checkpoint.native import ModelInfo, save_model
from safa.models.safa import Safa

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


Page = tuple[str, subprocess.Popen[str], Path]


@pytest.fixture
def page(model: Safa, tmp_path: Path, free_port: int) -> Iterator[Page]:
    """A page of its own process: its address, the process, and the folder of its temporary files."""
    with _serving(model, tmp_path, free_port, ()) as running:
        yield running


@contextmanager
def _serving(model: Safa, tmp_path: Path, free_port: int, more: tuple[str, ...]) -> Iterator[Page]:
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    save_model(tmp_path / "model", model, ModelInfo("full", model.config, 5, "test"))
    (tmp_path / "tmp").mkdir()
    words = ["app", "--checkpoint", str(tmp_path / "model"), "--port", str(free_port), "--max-mb", "1"]
    words += ["--allow-host", "notebook.example", "--assets", str(tmp_path), *more]
    process = subprocess.Popen(
        [sys.executable, "-m", "safa.cli", *words],
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp"), "SAFA_LIMITS": "job_bytes=5e8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    address = f"http://127.0.0.1:{free_port}"
    try:
        _wait_for(address, process)
        yield address, process, tmp_path / "tmp"
    finally:
        process.kill()
        process.communicate()


def _wait_for(address: str, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 240
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(address, timeout=5).status_code in (200, 401):
                return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail(f"the page did not start: {process.communicate(timeout=5)[0] if process.poll() else ''}")


def test_strangers_reach_nothing(page: Page) -> None:
    """One process for all, since it takes seconds to start."""
    address, process, temporary = page
    port = address.rpartition(":")[2]
    with httpx.Client(base_url=address, timeout=20) as client:
        own = client.get("/")
        assert own.status_code == 200
        assert "frame-ancestors 'none'" in own.headers["content-security-policy"]
        assert own.headers["x-frame-options"] == "DENY"
        for name in ("localhost", "notebook.example"):
            assert client.get("/", headers={"Host": f"{name}:{port}"}).status_code == 200

        # Another name for this machine, as after DNS rebinding.
        for name in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", ""):
            for path in ("/", "/config", "/gradio_api/info", "/gradio_api/queue/data?session_hash=x"):
                answer = client.get(path, headers={"Host": name})
                assert answer.status_code in (400, 403), (name, path)
                assert not [key for key in answer.headers if key.startswith("access-control")]
        assert "--allow-host evil.example" in client.get("/", headers={"Host": "evil.example"}).text

        # Another site, in the browser of somebody who has the page open.
        photo = {"files": ("a.png", b"x" * 100, "image/png")}
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Origin": f"http://127.0.0.1.evil.example:{port}"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
        ):
            for path in ("/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/run/predict"):
                answer = client.post(path, headers=headers, files=photo)
                assert answer.status_code == 403, (headers, path)
                assert not [key for key in answer.headers if key.startswith("access-control")]
        assert client.get("/config", headers={"Origin": "https://evil.example"}).status_code == 403

        # Files of the server, and uploads that are too large.
        for path in (
            "/etc/passwd",
            "../../../../etc/passwd",
            str(Path(__file__)),
            "%2e%2e/%2e%2e/etc/passwd",
        ):
            assert client.get(f"/gradio_api/file={path}").status_code in (403, 404), path
        large = client.post("/gradio_api/upload", files={"files": ("a.png", bytes(3_000_000), "image/png")})
        assert large.status_code >= 400
        kept = client.post("/gradio_api/upload", files=photo, headers={"Origin": address})
        assert kept.status_code == 200
        _send_too_much(client)
        _ask_for_what_is_no_part_of_the_page(client)
        _give_paths_of_the_server(client, temporary)
        _upload_with_other_names(client, temporary)
        _take_too_much_memory(client)
    assert list(temporary.rglob("*.png"))  # the upload

    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert list(temporary.rglob("*.png")) == []
    assert not any(path.name.startswith("safa-app-") for path in temporary.iterdir())


def _send_too_much(client: httpx.Client) -> None:
    """Into memory, by what is no upload; and by one that does not say how much will come."""
    job = {"data": ["x" * 2_000_000], "fn_index": 0, "session_hash": "s"}
    assert client.post("/gradio_api/queue/join", json=job).status_code == 413
    endless = (b"x" * 2**16 for _ in range(2**12))
    with suppress(httpx.TransportError):  # it hangs up, or refuses
        answer = client.post("/gradio_api/queue/join", content=endless)
        assert answer.status_code >= 400
    several = [("files", (f"{number}.png", bytes(900_000), "image/png")) for number in range(3)]
    assert client.post("/gradio_api/upload", files=several).status_code == 413


def _ask_for_what_is_no_part_of_the_page(client: httpx.Client) -> None:
    """Gradio's server can run ffmpeg on what is sent, fetch addresses, and write states to the disk."""
    for name in ("process_recording", "vibe-edit", "run-history/connect", "stream/x", "call/x", "api/look"):
        assert client.post(f"/gradio_api/{name}", json={}).status_code == 404, name
    for name in ("proxy=https://example.org", "deep_link?session_hash=x", "custom_component/1/a/b/c", "runs"):
        assert client.get(f"/gradio_api/{name}").status_code == 404, name
    for path in ("/monitoring", "/monitoring/summary", "/docs", "/openapi.json", "/x/..%2f", "/gradio_api"):
        assert client.get(path).status_code == 404, path
    assert client.put("/gradio_api/upload", content=b"x").status_code == 404
    # Other sites may lead here by a link, but not take parts of the page into theirs.
    site = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert client.get("/config", headers=site).status_code == 403
    assert client.get("/", headers=site | {"Sec-Fetch-Mode": "navigate"}).status_code == 200


def _give_paths_of_the_server(client: httpx.Client, temporary: Path) -> None:
    """In the place of an upload: other files, addresses, and values of other kinds."""
    secret = temporary.parent / "secret.png"
    Image.new("RGB", (32, 32)).save(secret)
    for payload in (
        {"path": str(secret), "meta": {"_type": "gradio.FileData"}},
        {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}},
        {"path": "http://127.0.0.1:1/a.png", "url": "http://127.0.0.1:1/a.png"},
        {"path": None},
        {"path": "a" * 5000},
        "text",
        ["a"],
        {"path": {"path": "x"}},
    ):
        said = _job(client, "look", [payload, None])
        assert '"success":false' in said.replace(" ", "") or "Error:" in said, (payload, said)


def _upload_with_other_names(client: httpx.Client, temporary: Path) -> None:
    """A name is a name: nothing of it becomes a path."""
    before = {path for path in temporary.rglob("*") if "safa-app-" not in str(path)}
    for name in (
        "../../../a.png",
        "/tmp/a.png",
        "a" * 4000 + ".png",
        "\x1b[2J.png",
        "\u202egnp.png",
        ".png",
        "..",
    ):
        answer = client.post("/gradio_api/upload", files={"files": (name, b"x", "image/png")})
        for kept in answer.json() if answer.status_code == 200 else ():
            assert Path(kept).is_relative_to(temporary), name
            assert ".." not in Path(kept).parts
    assert {path for path in temporary.rglob("*") if "safa-app-" not in str(path)} == before


def _take_too_much_memory(client: httpx.Client) -> None:
    """A photo that needs more than a job may have: one line, and the page works as before."""
    large, small = io.BytesIO(), io.BytesIO()
    Image.new("L", (15_000, 15_000)).save(large, "PNG")
    Image.new("RGB", (64, 64), (200, 0, 0)).save(small, "PNG")
    for data, words in ((large, "needs more memory than there is"), (small, "no face")):
        upload = client.post("/gradio_api/upload", files={"files": ("a.png", data.getvalue(), "image/png")})
        file = {"path": upload.json()[0], "orig_name": "a.png", "meta": {"_type": "gradio.FileData"}}
        said = _job(client, "look", [file, None])
        assert words in said
        assert "process_completed" in said


def _job(client: httpx.Client, name: str, data: list[Any]) -> str:
    """Press a button, wait for its end, and give all that was said."""
    functions = client.get("/config").json()["dependencies"]
    number = next(each["id"] for each in functions if each["api_name"] == name)
    job = {"data": data, "fn_index": number, "session_hash": "job"}
    joined = client.post("/gradio_api/queue/join", json=job)
    if joined.status_code != 200:
        return joined.text
    said = ""
    with client.stream("GET", "/gradio_api/queue/data?session_hash=job", timeout=60) as stream:
        for line in stream.iter_lines():
            said += line + "\n"
            if "process_completed" in line or "close_stream" in line:
                return said
    return said


@pytest.mark.soak
def test_a_page_with_a_password_and_a_bounded_queue(model: Safa, tmp_path: Path, free_port: int) -> None:
    """Without the password there is the form to enter it and nothing else; with it, a queue with an end."""
    (tmp_path / "auth").write_text("ann:secret\n")
    with (
        _serving(model, tmp_path, free_port, ("--auth", str(tmp_path / "auth"))) as (address, _, _),
        httpx.Client(base_url=address, timeout=30) as client,
    ):
        for path in ("/config", "/gradio_api/info", "/gradio_api/queue/data?session_hash=x"):
            assert client.get(path).status_code == 401, path
        for path in ("/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/run/predict"):
            assert client.post(path, files={"files": ("a.png", b"x", "image/png")}).status_code == 401, path
        wrong = client.post("/login", data={"username": "ann", "password": "guess"})
        assert wrong.status_code == 400
        assert client.get("/config").status_code == 401
        assert client.post("/login", data={"username": "ann", "password": "secret"}).status_code == 200
        config = client.get("/config").json()
        assert not config.get("is_colab")
        assert config.get("share_url") is None
        _fill(client, next(each["id"] for each in config["dependencies"] if each["api_name"] == "load"))


def _fill(client: httpx.Client, function: int) -> None:
    """Ask for more than the queue takes of a job that lasts seconds; the rest is refused in words."""

    def join(number: int) -> httpx.Response:
        job = {"data": [], "fn_index": function, "session_hash": f"s{number}"}
        return client.post("/gradio_api/queue/join", json=job)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(join, range(3 * QUEUE_LENGTH)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert QUEUE_LENGTH <= len(answers) - len(refused) < 2 * QUEUE_LENGTH
    assert all("full" in answer.text.lower() for answer in refused)
