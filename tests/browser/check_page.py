"""The page of ``safa app`` in a browser: every control is used, under the Content-Security-Policy.

The model is a tiny one that never learned anything: what is checked is that each control does something, that
no error is without text, and that the browser has nothing to complain about.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from safa.checkpoint.native import ModelInfo, save_model
from safa.data.video import probe, write_video
from tests.contract.wires.world import World

LONG = 1000  # frames of a video that takes long enough to be cancelled; the page takes 60 s of 25 each
DONE = 60_000  # ms that a job of the tiny model may take
PLAYER = ("Adjust volume", "Fullscreen", "Download")  # buttons of players and pictures
COPY_A_PICTURE = """async () => {
  const canvas = Object.assign(document.createElement('canvas'), {width: 64, height: 64});
  canvas.getContext('2d').fillRect(8, 8, 40, 40);
  const picture = await new Promise(done => canvas.toBlob(done, 'image/png'));
  await navigator.clipboard.write([new ClipboardItem({'image/png': picture})]);
}"""
PLAYED = """() => {
  const video = document.querySelector("video[src*='/sample.']");
  if (video?.paused && !Number.isFinite(video.duration)) video.play();
  return Number.isFinite(video?.duration);
}"""
# Violations of the policy, as the page itself sees them, and bytes that a recording has.
WATCH = """window.violations = [];
document.addEventListener('securitypolicyviolation', event =>
    window.violations.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sourceFile}`));
window.recorded = 0;
window.MediaRecorder = class extends MediaRecorder {
  constructor(...how) {
    super(...how);
    this.addEventListener('dataavailable', event => window.recorded += event.data.size);
  }
};"""
RECORDED = 20_000  # bytes of a recording that has frames; the first piece may be a single byte


@dataclass
class Server:
    """The running page: its address and process, and the files that are uploaded."""

    address: str
    process: subprocess.Popen[str]
    photo: Path
    video: Path
    broken: Path
    long: Path


@pytest.fixture(scope="module")
def server(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    folder = tmp_path_factory.mktemp("page")
    model = world.make_model(num_keypoints=4)
    save_model(folder / "model", model, ModelInfo("full", model.config, 5, "test"))
    photo, video, broken = folder / "face.png", folder / "face.mp4", folder / "broken.mp4"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(photo)
    write_video(video, [np.full((64, 64, 3), 20 * n, np.uint8) for n in range(8)], 25.0)
    broken.write_bytes(b"no video at all")
    long = folder / "long.mp4"
    write_video(long, [np.full((64, 64, 3), n % 256, np.uint8) for n in range(LONG)], 25.0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["app", "--checkpoint", str(folder / "model"), "--port", str(port), "--detector", "none"]
    process = subprocess.Popen(
        [sys.executable, "-m", "safa.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        _wait_for(port, process)
        yield Server(f"http://127.0.0.1:{port}/", process, photo, video, broken, long)
    finally:
        process.terminate()
        process.communicate()


def _wait_for(port: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the page did not start: {process.communicate(timeout=5)[0] if process.poll() else ''}")


@pytest.fixture
def opened(server: Server, browser: Any) -> Iterator[tuple[Any, list[str]]]:
    """The page in a window, and what its console said; nothing may be said by the end."""
    context = browser.new_context(viewport={"width": 1300, "height": 1200}, accept_downloads=True)
    context.add_init_script(WATCH)
    page, console, answered = context.new_page(), list[str](), list[Any]()

    def receive(answer: Any) -> None:
        answered.append(answer.request)
        if answer.status >= 400:
            console.append(f"{answer.status}: {answer.url}")

    def fail(request: Any) -> None:
        if not (request in answered and _is_closed_stream(request)):
            console.append(f"failed: {request.resource_type} {request.url} {request.failure}")

    page.on("console", lambda message: console.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: console.append(f"error: {error}"))
    page.on("response", receive)
    page.on("requestfailed", fail)
    page.goto(server.address)
    page.get_by_role("tab", name="Swap").wait_for(timeout=DONE)
    yield page, console
    complaints = [line for line in console if re.match(r"(error|failed|[0-9]{3}):", line)]
    assert page.evaluate("window.violations") == []
    assert complaints == []
    context.close()


def _is_closed_stream(request: Any) -> bool:
    """Whether this is a stream of a job's events that Gradio's client closed, which Chromium calls an abort.

    The client closes it when its last job has ended; the server would keep it open. What the policy or the
    server stops fails by another name, and without an answer.
    """
    is_stream = request.resource_type == "fetch" and urlsplit(request.url).path == "/gradio_api/queue/data"
    return is_stream and request.failure == "net::ERR_ABORTED"


def _is_upload(answer: Any) -> bool:
    return "/gradio_api/upload" in answer.url and "progress" not in answer.url


def _panel(page: Any, name: str) -> Any:
    """The controls of a tab."""
    page.get_by_role("tab", name=name).click()
    panel = page.locator("[role=tabpanel]:visible")
    panel.wait_for()
    return panel


def _give(panel: Any, *files: Path) -> None:
    """Choose files for photo and video, and wait until each is there."""
    for number, file in enumerate(files):
        with panel.page.expect_response(_is_upload):
            # An input goes when its file is there.
            panel.locator(
                "input[type=file][accept^=image]" if not number else "input[type=file][accept^=video]"
            ).first.set_input_files(str(file))


def _press(panel: Any, name: str) -> None:
    panel.get_by_role("button", name=name, exact=True).click()


def _said(panel: Any, words: str) -> str:
    """Wait until the tab says this below its buttons."""
    message = panel.locator(".prose").filter(has_text=re.compile(words)).last
    message.wait_for(timeout=DONE)
    return str(message.inner_text())


def _options(panel: Any, *, wanted: bool) -> None:
    """Set all checkboxes but that for faces, which needs a detector."""
    for box in panel.locator("input[type=checkbox]").all():
        label = box.evaluate("box => box.closest('label').innerText")
        box.set_checked(wanted and "Find the face" not in label)


def _downloaded(panel: Any, name: str) -> Path:
    with panel.page.expect_download() as waiting:
        _press(panel, name)
    return Path(waiting.value.path())


@pytest.mark.parametrize("tab", ["Animate", "Swap"])
def test_a_video_is_made_with_every_option_and_with_none(tab: str, server: Server, opened: Any) -> None:
    page, _ = opened
    panel = _panel(page, tab)
    _press(panel, tab)
    assert "there is no photo yet" in _said(panel, "Error")
    _give(panel, server.photo, server.video)
    for wanted in (False, True):
        _options(panel, wanted=wanted)
        _press(panel, tab)
        _said(panel, "Working")
        assert "8 frames at 25 fps" in _said(panel, "frames at")
    assert probe(_downloaded(panel, "Download the result")).frames in (8, None)
    results = panel.locator("video:visible")
    assert results.count() >= 3  # what was given, what drives, the result
    for number in range(results.count()):
        page.wait_for_function("video => video.readyState > 0", arg=results.nth(number).element_handle())
    _use_the_players(panel)


def _use_the_players(panel: Any) -> None:
    """Volume, full screen, download: whatever buttons the players and pictures have."""
    for name in PLAYER:
        for button in panel.get_by_role("button", name=name, exact=True).all():
            button.click()
            panel.page.wait_for_timeout(200)
            panel.page.keyboard.press("Escape")


def test_a_face_that_is_not_found_is_said_in_the_pages_words(server: Server, opened: Any) -> None:
    page, _ = opened
    panel = _panel(page, "Animate")
    _give(panel, server.photo, server.video)
    _press(panel, "Preview crop and landmarks")
    _said(panel, "no face detector is here")
    _press(panel, "Animate")
    assert "“Find the face” off" in _said(panel, "Error.*face")


def test_a_broken_video_is_said(server: Server, opened: Any) -> None:
    page, _ = opened
    panel = _panel(page, "Swap")
    _give(panel, server.photo, server.broken)
    _options(panel, wanted=False)
    _press(panel, "Swap")
    assert "not a readable video" in _said(panel, "Error")


@pytest.mark.parametrize("tab", ["Animate", "Swap", "3D head"])
def test_the_example_runs(tab: str, opened: Any) -> None:
    page, _ = opened
    panel = _panel(page, tab)
    _press(panel, "Run an example")
    _said(panel, "vertices" if tab == "3D head" else "50 frames at 25 fps")


def test_a_job_is_cancelled(server: Server, opened: Any) -> None:
    """While it runs, and before: an example has to be drawn first."""
    page, _ = opened
    panel = _panel(page, "Animate")
    _give(panel, server.photo, server.long)
    _options(panel, wanted=False)
    _press(panel, "Animate")
    panel.get_by_text(re.compile(f"[0-9]+ of {LONG} frames")).first.wait_for(timeout=DONE)
    _press(panel, "Cancel")
    assert "had been made" in _said(panel, "cancelled")
    _press(panel, "Run an example")
    panel.locator(".progress-text").first.wait_for(timeout=DONE)
    _press(panel, "Cancel")
    panel.locator(".progress-text").first.wait_for(state="detached", timeout=DONE)
    _said(panel, "cancelled.*(It had not begun|had been made)")  # as it had, or had not
    panel.page.wait_for_timeout(1000)
    assert panel.locator(".prose").filter(has_text="frames at").count() == 0


def test_a_head_is_made_and_downloaded(server: Server, opened: Any) -> None:
    page, _ = opened
    panel = _panel(page, "3D head")
    _give(panel, server.photo)
    _options(panel, wanted=False)
    _press(panel, "Reconstruct")
    _said(panel, "vertices")
    with zipfile.ZipFile(_downloaded(panel, "Download mesh, texture and landmarks (.zip)")) as archive:
        assert "head.glb" in archive.namelist()
    _use_the_players(panel)


def test_a_recording_a_selection_and_a_picture_of_the_clipboard(server: Server, opened: Any) -> None:
    """From the browser's own test camera; what it recorded is a video like any other."""
    page, _ = opened
    page.context.grant_permissions(["clipboard-read", "clipboard-write", "camera", "microphone"])
    panel = _panel(page, "Animate")
    page.evaluate(COPY_A_PICTURE)
    with page.expect_response(_is_upload):
        panel.get_by_role("button", name="Paste from clipboard").click()
    panel.get_by_role("button", name="Capture from camera").click()
    panel.get_by_text("Click to Access Webcam").click()
    record = panel.get_by_role("button", name="start recording")
    record.click(timeout=DONE)
    # Gradio uploads what the camera has delivered when it is stopped, and does not wait for the last piece.
    page.wait_for_function("least => window.recorded > least", arg=RECORDED, timeout=DONE)
    with page.expect_response(_is_upload):
        record.click()
    # How long a recording is stands nowhere in it: Chromium knows once it has played it.
    page.wait_for_function(PLAYED, timeout=DONE)
    panel.get_by_role("button", name="Trim video to selection").click(timeout=DONE)
    with page.expect_response(_is_upload):
        _press(panel, "Trim")
    panel.get_by_role("button", name="Reset video to initial value").wait_for(timeout=DONE)
    _options(panel, wanted=False)
    _press(panel, "Animate")
    _said(panel, "frames at")
    # Back to what the page opened with, which is no video.
    panel.get_by_role("button", name="Reset video to initial value").click(timeout=DONE)
    panel.get_by_text("Click to Access Webcam").wait_for(timeout=DONE)
    panel.get_by_role("button", name="Remove Image").first.click()
