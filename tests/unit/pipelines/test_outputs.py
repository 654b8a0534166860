"""An output that cannot be written is one line and exit code 2 in every pipeline, before inputs are read."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from pipelines import demo, evaluate, preprocess, train

ROOT = Path(__file__).parents[3]
MAINS: dict[str, tuple[Callable[[Sequence[str]], int], str, str]] = {
    "preprocess": (preprocess.main, "smoke/preprocess.yaml", "out"),
    "train": (train.main, "smoke/train.yaml", "runs"),
    "evaluate": (evaluate.main, "smoke/evaluate.yaml", "out"),
    "demo": (demo.main, "smoke/demo.yaml", "run"),
}


def _line(name: str, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    main, config, key = MAINS[name]
    code = main(["--config", str(ROOT / "configs" / config), "--set", f"{key}={out}"])
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert (code, len(errors)) == (2, 1)
    return errors[0]


@pytest.mark.parametrize("name", MAINS)
def test_a_file_in_place_of_the_folder_or_above_it(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert str(tmp_path / "file") in _line(name, out, capsys)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", MAINS)
def test_a_folder_that_cannot_be_made(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "/proc/nothing" in _line(name, Path("/proc/nothing/out"), capsys)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk without a free byte; skipped where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with (folder / "fill").open("wb", buffering=0) as file:
            while file.write(b"x" * 4096) == 4096:
                pass
    except OSError:
        pass
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("name", MAINS)
def test_a_full_disk(name: str, full_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no space left on device" in _line(name, full_disk / "out", capsys).lower()
