"""What a job sends as its working directory: the code, without data, weights, runs and environments."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env import packaging

ROOT = Path(__file__).parents[2]
MOST = 20 * 10**6  # bytes; a job server takes 100 MiB
BESIDE = ("data", "weights", "assets", "runs", ".venv", "venv", ".venv-3.12", "env", ".git", ".mypy_cache")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The package that Ray makes of a clone in which somebody has worked."""
    clone = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("this is not a clone of the repository")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    for name in BESIDE:
        (clone / name).mkdir(exist_ok=True)
        with (clone / name / "large.bin").open("wb") as file:
            file.truncate(30 * 10**6)
        (clone / name / "mark").write_text("not for a job")
    target = tmp_path_factory.mktemp("package") / "package.zip"
    packaging.create_package(str(clone), target, include_gitignore=True)
    assert target.stat().st_size < MOST
    return zipfile.ZipFile(target)


def test_it_has_the_code_and_the_settings(package: zipfile.ZipFile) -> None:
    names = {name.split("/", 1)[1] if name.startswith("clone") else name for name in package.namelist()}
    for name in (
        "pipelines/train.py",
        "safa/data/shards.py",
        "configs/train.yaml",
        "configs/smoke/demo.yaml",
    ):
        assert name in names, name
    assert sum(item.file_size for item in package.infolist()) < MOST


def test_it_has_nothing_of_what_lies_beside_them(package: zipfile.ZipFile) -> None:
    assert [name for name in package.namelist() if name.endswith(("large.bin", "mark"))] == []
