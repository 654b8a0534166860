"""The boundary to the operating system: what cannot be written is one line and leaves nothing."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from safa.data.video import write_video
from safa.errors import EXIT_TERMINATED, EXIT_USER_ERROR, UserError, run_reporting_errors
from safa.files import check_folder, check_output
from safa.inference.video_output import RenderedFrame, RenderedVideo, check_outputs

ROOT = Path(__file__).parents[2]


def _frames(count: int = 3) -> Iterator[RenderedFrame]:
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    return (RenderedFrame(image, image, True, lambda: image) for _ in range(count))


def _video(count: int = 3) -> RenderedVideo:
    return RenderedVideo(25.0, count, (), None, lambda: _frames(count))


def test_a_missing_parent_is_made_and_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    _video().save(tmp_path / "new" / "folder" / "a.mp4")
    assert (tmp_path / "new" / "folder" / "a.mp4").is_file()
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        _video().save(tmp_path / "file" / "a.mp4")
    with pytest.raises(UserError, match="cannot be written"):
        check_folder(tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written"):
        check_folder(Path("/proc/nothing"))


def test_names_near_the_limit(tmp_path: Path) -> None:
    _video().save(tmp_path / ("n" * 251 + ".mp4"))
    with pytest.raises(UserError, match="name too long"):
        _video().save(tmp_path / ("n" * 252 + ".mp4"))
    with pytest.raises(UserError, match="cannot be written"):
        check_output(tmp_path / "a\0b.mp4")


def test_no_input_is_overwritten_and_no_output_written_twice(tmp_path: Path) -> None:
    photo = tmp_path / "a.mp4"
    photo.write_bytes(b"x")
    (tmp_path / "link.mp4").symlink_to(photo)
    for output in (photo, tmp_path / "link.mp4", tmp_path / "." / "a.mp4"):
        with pytest.raises(UserError, match="is an input, too"):
            check_outputs(output, None, (photo,))
    with pytest.raises(UserError, match="is an input, too"):
        check_outputs(tmp_path / "b.mp4", photo, (photo,))
    with pytest.raises(UserError, match="is the result, too"):
        check_outputs(tmp_path / "b.mp4", tmp_path / "x" / ".." / "b.mp4")


@pytest.mark.parametrize("name", ["a:b.mp4", "-a.mp4", "a b'c%d.mp4", "a\udcff.mp4"])
def test_unusual_names_are_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _video().save(name).n_frames == 3
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    """The largest file is limited to 20 kB, for the encoder as for us."""
    noise = np.random.default_rng(0).integers(0, 255, (60, 64, 64, 3), np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"full\.mp4: cannot be written"):
            write_video(tmp_path / "full.mp4", noise, 25.0, crf=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_errors_about_paths_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")

    def bodies() -> Iterator[object]:
        yield lambda: (tmp_path / "gone").read_text() and None
        yield lambda: (tmp_path / "file" / "x").write_text("") and None
        yield lambda: tmp_path.write_text("") and None
        yield lambda: (tmp_path / ("n" * 300)).write_text("") and None

    for body in bodies():
        assert run_reporting_errors(body) == EXIT_USER_ERROR  # type: ignore[arg-type]
        assert capsys.readouterr().err.startswith(f"error: {tmp_path}")


def test_a_full_standard_output_is_one_line() -> None:
    code = "import sys; from safa.errors import run_reporting_errors as r; sys.exit(r(lambda: print('x')))"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
    assert done.returncode == EXIT_USER_ERROR
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_sigterm_removes_what_is_not_complete(tmp_path: Path) -> None:
    code = (
        "import sys, time, numpy as np\n"
        "from pathlib import Path\n"
        "from safa.data.video import write_video\n"
        "from safa.errors import ending_on_sigterm, run_reporting_errors\n"
        "def frames():\n"
        "    for n in range(1000):\n"
        "        yield np.full((64, 64, 3), n % 255, np.uint8)\n"
        "        if n > 3: print('going', flush=True); time.sleep(0.05)\n"
        "def body():\n"
        "    with ending_on_sigterm(): write_video(Path(sys.argv[1]), frames(), 25.0)\n"
        "sys.exit(run_reporting_errors(body))\n"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "a.mp4")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    program.stdout.readline()
    time.sleep(0.2)
    program.send_signal(signal.SIGTERM)
    _, errors = program.communicate(timeout=60)
    assert program.returncode == EXIT_TERMINATED
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
