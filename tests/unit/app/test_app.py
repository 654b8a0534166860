"""The page: what it refuses with which message, what its buttons do, and that it can be built."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from safa.app.page import Address, _error_line, build_page, in_page_words, serve
from safa.app.work import KEPT_RESULTS, Limits, Workshop
from safa.config import ModelConfig, parse_settings
from safa.data.video import probe, write_video
from safa.errors import UserError
from safa.head.assets import HeadAssets
from safa.inference import mesh
from safa.inference.face_animator import FaceAnimator
from safa.models.safa import Safa

OPTIONS = {
    "relative": True,
    "adapt_scale": False,
    "find_best_frame": False,
    "with_eyes": False,
    "paste_back": False,
    "crop": True,
    "grid": True,
}


class MiddleTracker:
    """Takes the middle of a picture for a face; a black one has none."""

    name = "middle"

    def crop_boxes(self, frames: Iterable[Any], choice: object = None) -> Iterator[np.ndarray]:
        for frame in frames:
            yield self.faces(frame)[0] if frame.max() > 1 else np.full(3, np.nan)

    def faces(self, frame: Any) -> list[np.ndarray]:
        height, width = frame.shape[:2]
        return [np.array([width / 2, height / 2, min(width, height)])]

    def landmarks(self, faces: object) -> None:
        return None


@pytest.fixture
def workshop(
    tiny_model: dict[str, Any], toy_head: HeadAssets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Workshop:
    monkeypatch.setattr(mesh, "TURNTABLE_FRAMES", 2)
    monkeypatch.setattr(mesh, "PICTURE_SIZE", 64)
    monkeypatch.setattr(mesh, "TURNTABLE_SIZE", 64)
    model = Safa(parse_settings(tiny_model, ModelConfig, "test"), toy_head)
    (tmp_path / "runs").mkdir()
    animator = FaceAnimator(model, torch.device("cpu"), face_tracker=MiddleTracker())
    return Workshop(animator, Limits(max_seconds=2, max_mb=1), tmp_path / "runs")


@pytest.fixture
def photo(tmp_path: Path) -> str:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)).save(tmp_path / "p.png")
    return str(tmp_path / "p.png")


@pytest.fixture
def video(tmp_path: Path) -> Callable[[int], str]:
    def write(frames: int) -> str:
        path = tmp_path / f"{frames}.mp4"
        write_video(path, [np.full((48, 64, 3), 3 * n, np.uint8) for n in range(frames)], 25.0)
        return str(path)

    return write


def _check_progress(share: float, message: str) -> None:
    assert 0 <= share <= 1
    assert "frame" in message


def test_a_result_has_both_videos_and_a_note_about_guesses(
    workshop: Workshop, photo: str, video: Callable[[int], str]
) -> None:
    result = workshop.animate(photo, video(6), _check_progress, **OPTIONS)
    assert probe(result.video).fps == 25
    assert result.grid is not None
    assert probe(result.grid).width > 1000
    assert "6 frames at 25 fps" in result.message
    assert "Note: 6.mp4: no face in 1 of 6 frames" in result.message
    swapped = workshop.swap(photo, video(6), _check_progress, crop=False, grid=False)
    assert swapped.grid is None
    assert "Note" not in swapped.message


def test_the_preview_shows_both_inputs(workshop: Workshop, photo: str, video: Callable[[int], str]) -> None:
    previews = workshop.preview(photo, video(3))
    assert [label for _, label in previews] == ["photo", "first frame with a face"]
    assert all(image.shape == (256, 256, 3) for image, _ in previews)
    with pytest.raises(UserError, match="Upload a photo first"):
        workshop.preview(None, None)


def test_a_head_comes_as_an_archive(workshop: Workshop, photo: str) -> None:
    files = workshop.reconstruct(photo, crop=False)
    assert files.archive.stat().st_size > 0
    assert files.overlay.is_file()
    assert "98 vertices" in files.message


def test_unusable_uploads_are_refused(
    workshop: Workshop, photo: str, video: Callable[[int], str], tmp_path: Path
) -> None:
    def refused(image: str | None, video: str | None) -> str:
        with pytest.raises(UserError) as error:
            workshop.animate(image, video, _check_progress, **OPTIONS)
        return str(error.value)

    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "large.mp4").write_bytes(bytes(2_000_000))
    assert "there is no photo yet" in refused(None, None)
    assert "there is no video yet" in refused(photo, None)
    assert "--" not in refused(photo, video(60))
    assert "at most 2 s" in refused(photo, video(60))
    assert "at most 1 MB" in refused(photo, str(tmp_path / "large.mp4"))
    assert "not a readable video" in refused(photo, str(tmp_path / "text.mp4"))
    assert "not a readable photo" in refused(str(tmp_path / "text.mp4"), video(5))


def test_old_results_are_deleted(
    workshop: Workshop, photo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert KEPT_RESULTS > 10
    monkeypatch.setattr("safa.app.work.KEPT_RESULTS", 2)
    for _ in range(4):
        workshop.reconstruct(photo, crop=False)
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_errors_have_text_without_paths_of_the_server_and_without_options() -> None:
    error = UserError("not a readable photo", "/tmp/secret/face.jpg", "Give a JPEG or PNG.")
    assert _error_line(error) == "**Error:** face.jpg: not a readable photo. Give a JPEG or PNG."
    assert "KeyError" in _error_line(KeyError())
    assert in_page_words("Use crop=False if it is cropped.") == "Use “Find the face” off if it is cropped."


def test_a_job_ends_at_its_deadline_or_when_it_is_cancelled(
    workshop: Workshop, photo: str, video: Callable[[int], str]
) -> None:
    def cancel(share: float, message: str) -> None:
        workshop.cancel("me")

    with pytest.raises(UserError, match=r"^cancelled\. 2 frames had been made"):
        workshop.animate(photo, video(6), cancel, **OPTIONS, session="me")
    workshop.expect("me")
    assert workshop.animate(photo, video(6), _check_progress, **OPTIONS, session="me")  # the next one runs
    workshop._limits = Limits(max_minutes=0)
    # The faces of a video are looked for before its first frame is made: that is part of the job.
    with pytest.raises(UserError, match=r"^took longer than 0 minutes\. 0 frames had been made"):
        workshop.animate(photo, video(6), _check_progress, **OPTIONS)
    with pytest.raises(UserError, match="took longer than 0 minutes"):
        workshop.preview(None, video(6))


def test_strangers_need_a_password(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "localhost", "127.0.0.2", "::1"):
        assert Address(host, 1).login() is None
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(UserError, match=r"strangers could use this machine\. Add --auth FILE"):
            Address(host, 1).login()
    (tmp_path / "auth").write_text("ann:se:cret\n")
    assert Address("0.0.0.0", 1, auth=tmp_path / "auth").login() == ("ann", "se:cret")
    (tmp_path / "auth").write_text("ann\n")
    with pytest.raises(UserError, match="does not hold USER:PASSWORD"):
        Address("0.0.0.0", 1, auth=tmp_path / "auth").login()
    with pytest.raises(UserError, match="cannot be read"):
        Address("0.0.0.0", 1, auth=tmp_path / "gone").login()


def test_a_port_that_is_taken_is_reported_before_the_model_is_loaded() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"^127\.0\.0\.1:{port}: cannot serve there \(.*in use.*Give another"
        ):
            serve(lambda: pytest.fail("loaded"), Limits(), Address("127.0.0.1", port))
    Address("127.0.0.1", port).check_free()


@pytest.mark.slow
def test_the_page_has_three_tabs(workshop: Workshop, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the extra `app` is not installed")
    page = build_page(workshop, Limits(), tmp_path)
    labels = [
        block["props"].get("label")
        for block in page.get_config_file()["components"]
        if block["type"] == "tabitem"
    ]
    assert labels == ["Animate", "Swap", "3D head"]
