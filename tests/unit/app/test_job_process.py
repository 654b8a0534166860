"""The process behind the page: bounded in memory and time, replaced when it is gone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from safa.app import job_process
from safa.app.job_process import JobProcess
from safa.app.work import Limits
from safa.checkpoint.native import ModelInfo, save_model
from safa.data.video import write_video
from safa.errors import UserError
from safa.inference.loading import open_animator
from safa.models.safa import Safa

JOB_BYTES = 2**29
OPTIONS = {
    "relative": False,
    "adapt_scale": False,
    "find_best_frame": False,
    "with_eyes": False,
    "paste_back": False,
    "crop": False,
    "grid": False,
}


@pytest.fixture
def jobs(model: Safa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobProcess]:
    monkeypatch.setenv("SAFA_LIMITS", f"job_bytes={JOB_BYTES}")
    monkeypatch.setattr(job_process, "GRACE", 0.5)
    save_model(tmp_path / "model", model, ModelInfo("full", model.config, 5, "test"))
    (tmp_path / "results").mkdir()
    opened = partial(open_animator, tmp_path / "model", device="cpu", detector="none")
    with JobProcess(opened, Limits(), tmp_path / "results") as running:
        yield running


@pytest.mark.slow
def test_a_job_ends_and_the_next_one_runs(jobs: JobProcess, tmp_path: Path) -> None:
    """One test for all, since the process takes seconds to start."""
    rng = np.random.default_rng(0)
    small, large, video = (str(tmp_path / name) for name in ("small.png", "large.png", "video.mp4"))
    Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(small)
    Image.new("L", (15_000, 15_000)).save(large)  # 220 kB, and 880 MB as colours
    write_video(Path(video), [np.full((48, 64, 3), 3 * n, np.uint8) for n in range(6)], 25.0)
    assert "step 5" in jobs.about

    with pytest.raises(UserError, match="memory") as error:
        jobs.do("preview", large, None)
    assert str(error.value).isprintable()

    shown: list[str] = []

    def note(share: float, message: str) -> None:
        shown.append(message)

    result = jobs.do("animate", small, video, report=note, **OPTIONS)
    assert result.video.is_file()
    assert shown[-1] == "6 of 6 frames"

    def kill(share: float, message: str) -> None:
        os.kill(jobs._process.pid or 0, signal.SIGKILL)  # as the system does where memory is full

    with pytest.raises(
        UserError, match=r"broke off \(SIGKILL\); it may have asked for more than 536,870,912"
    ):
        jobs.do("animate", small, video, report=kill, **OPTIONS)

    def hang(share: float, message: str) -> None:
        os.kill(jobs._process.pid or 0, signal.SIGSTOP)  # it reads and makes no frame any more
        jobs.cancel("me")

    with pytest.raises(UserError, match=r"^cancelled"):
        jobs.do("animate", small, video, report=hang, session="me", **OPTIONS)

    assert not jobs.cancel("me")  # nothing of it is waiting
    jobs.expect("me")
    assert jobs.cancel("me")
    with pytest.raises(UserError, match=r"^cancelled\. It had not begun"):
        jobs.do("animate", small, video, session="me", **OPTIONS)
    jobs.expect("me")
    assert jobs.cancel("me")
    jobs.expect("me")  # the button was pressed again
    assert jobs.do("animate", small, video, session="me", **OPTIONS).video.is_file()
    assert jobs.do("animate", small, video, **OPTIONS).video.is_file()


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_the_programs_error(tmp_path: Path) -> None:
    opened = partial(open_animator, tmp_path / "none", device="cpu", detector="none")
    with pytest.raises(UserError, match="no such file or folder"):
        JobProcess(opened, Limits(), tmp_path)


class _Full:
    """A workshop without memory, by everybody's words for it."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def preview(self, photo: str | None, video: str | None) -> None:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("could not create a primitive"),
        RuntimeError("can't start new thread"),
        OSError(12, "Cannot allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_want_of_memory_is_known(error: Exception) -> None:
    no_pipe: Any = None
    workshop: Any = _Full(error)
    assert job_process._done(workshop, no_pipe, "preview", (None, None), "", {}) == ("full", None)


def test_an_error_that_nobody_knows_is_one_line() -> None:
    no_pipe: Any = None
    workshop: Any = _Full(KeyError("/tmp/secret"))
    kind, error = job_process._done(workshop, no_pipe, "preview", (None, None), "", {})
    assert (kind, str(error)) == (
        "refused",
        "this failed unexpectedly (KeyError); the server's log has the reason",
    )
