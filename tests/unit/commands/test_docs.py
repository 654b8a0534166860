"""docs/cli.md is the command line of today, docs/python.md names what is there, code of all pages runs."""

from __future__ import annotations

import inspect
import re
import runpy
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

from safa import load
from safa.cli import build_parser
from safa.commands.flags import UPSTREAM, UPSTREAM_POSITIONALS, translate_upstream_flags
from safa.config import load_settings
from safa.config.annotate import AnnotateConfig
from safa.config.demo import DemoConfig
from safa.config.inference import EvaluateConfig
from safa.config.preprocess import PreprocessConfig
from safa.config.training import TrainConfig
from safa.data.video import probe, read_frames, write_video
from safa.inference import mesh
from safa.inference.face_animator import FaceAnimator
from safa.inference.mesh import Head
from safa.inference.video_output import RenderedVideo
from safa.models.face_parser import FaceParser
from tests.unit.commands.conftest import Run

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
# What else the blocks of commands may use; of the image of Kubernetes, where the project lies in it.
PLAIN = (".", "ray", "export", "aws", "docker", "helm", "kubectl", "echo", "mkdir", "rm", "sed", "until")
IN_THE_IMAGE = "/home/ray/safa/"
CONFIGS = {
    "pipelines.demo": DemoConfig,
    "pipelines.preprocess": PreprocessConfig,
    "pipelines.train": TrainConfig,
    "pipelines.evaluate": EvaluateConfig,
    "pipelines.annotate": AnnotateConfig,
}
CLI, PYTHON = ((DOCS / name).read_text(encoding="utf-8") for name in ("cli.md", "python.md"))


def test_the_flags_are_those_of_today() -> None:
    with_flags = runpy.run_path(str(DOCS / "cli_flags.py"))["with_flags"]
    assert with_flags(CLI) == CLI, "run `python docs/cli_flags.py`"


def test_the_command_lines_parse() -> None:
    commands = re.findall(r"^safa (.+)$", CLI, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        build_parser().parse_args(translate_upstream_flags(command.split()))


def test_every_flag_of_upstream_is_documented() -> None:
    names = [*UPSTREAM, *(name for names in UPSTREAM_POSITIONALS for name in names)]
    assert all(f"`{name}`" in CLI for name in names)


def test_the_python_page_names_what_is_there() -> None:
    options = re.findall(r"`(\w+)=", PYTHON[PYTHON.index("## Options") : PYTHON.index("## Heads")])
    of_both = {
        name
        for line in re.findall(r"^\| (`.*) \* \|", PYTHON, re.MULTILINE)
        for name in re.findall(r"`(\w+)=", line)
    }
    animate, swap = (
        set(inspect.signature(method).parameters) - {"self", "source", "driving"}
        for method in (FaceAnimator.animate, FaceAnimator.swap)
    )
    assert set(options) == animate | swap
    assert of_both == animate & swap
    for name in re.findall(r"^\| `(\w+)\(", PYTHON, re.MULTILINE):
        assert callable(getattr(FaceAnimator, name))
    for name in re.findall(r"`video\.(\w+)", PYTHON):
        assert name in RenderedVideo.__dataclass_fields__ or hasattr(RenderedVideo, name)
    for name in re.findall(r"head\.(\w+)", PYTHON):
        assert hasattr(Head, name)
    defaults = {name: p.default for name, p in inspect.signature(load).parameters.items()}
    for name, value in re.findall(r'(\w+)="?(\w+)"?[,)]', PYTHON[PYTHON.index("`safa.load(") :][:200]):
        assert str(defaults[name]) == value


# ---- code blocks -------------------------------------------------------------------------------------------


@pytest.fixture
def folder_of_a_reader(
    model: Path, synthetic_people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """What the pages take for granted: a photo, a video, a model and the weights of a face parser."""
    folder = tmp_path / "reader"
    (folder / "assets").mkdir(parents=True)
    (folder / "weights").mkdir()
    model.rename(folder / "weights" / "safa")
    people = sorted((synthetic_people / "videos").glob("*.mp4"))
    Image.fromarray(next(read_frames(people[0]))).save(folder / "photo.jpg")
    write_video(folder / "video.mp4", read_frames(people[1]), 12.5)
    torch.manual_seed(0)
    torch.save(FaceParser().state_dict(), folder / "assets" / "79999_iter.pth")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(mesh, "TURNTABLE_FRAMES", 2)
    monkeypatch.setattr(mesh, "PICTURE_SIZE", 64)
    monkeypatch.setattr(mesh, "TURNTABLE_SIZE", 64)
    return folder


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_there_is_python_on_two_pages_only() -> None:
    assert [page.name for page in PAGES if blocks(page, "python")] == ["onnx.md", "python.md"]


@pytest.mark.slow
def test_the_graphs_run_as_their_page_says(folder_of_a_reader: Path, safa: Run) -> None:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="the extra onnx is not installed")
    page = DOCS / "onnx.md"
    (command,) = commands(page)
    code, out, err = safa(*command[1:])
    assert code == 0, err
    assert "wrote graphs/generator.onnx" in out
    (text,) = blocks(page, "python")
    exec(compile(text, "docs/onnx.md", "exec"), {})
    with Image.open(folder_of_a_reader / "frame.png") as picture:
        assert picture.width == picture.height


def test_the_python_runs_as_it_stands(folder_of_a_reader: Path) -> None:
    """All blocks of the page one after another, as a reader pastes them."""
    names: dict[str, object] = {}
    for code in blocks(DOCS / "python.md", "python"):
        exec(compile(code, "docs/python.md", "exec"), names)
    assert probe(folder_of_a_reader / "out.mp4").fps == 12.5
    assert probe(folder_of_a_reader / "swapped.mp4").fps == 12.5
    assert (folder_of_a_reader / "head" / "head.obj").is_file()


def commands(page: Path) -> list[list[str]]:
    """The commands of a page, as the words that a shell would see."""
    text = "".join(blocks(page, "bash")).replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


ALL_COMMANDS = [(page, words) for page in PAGES for words in commands(page)]


@pytest.mark.parametrize("words", [words for _, words in ALL_COMMANDS if "safa" in Path(words[0]).name])
def test_the_commands_of_safa_run(words: list[str], folder_of_a_reader: Path, safa: Run) -> None:
    """Those that need nothing but a photo, a video and a model run; of the others the flags are read."""
    command = words[1:]
    build_parser().parse_args(translate_upstream_flags(command))
    if command[0] in ("animate", "swap", "reconstruct3d"):
        code, out, err = safa(*command)
        assert code == 0, err
        assert "wrote" in out


@pytest.mark.parametrize("words", [words for _, words in ALL_COMMANDS if "safa" not in Path(words[0]).name])
def test_the_other_commands_are_those_of_today(words: list[str]) -> None:
    """Configs are read with every ``--set`` in place, and targets of make expand; nothing is started."""
    if "-m" in words:
        module, rest = words[words.index("-m") + 1], words[words.index("-m") + 2 :]
        values = dict(zip(rest[::2], rest[1::2], strict=False))
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file()
        if "--config" in values:
            changes = [b for a, b in pairwise(rest) if a == "--set"]
            load_settings(ROOT / values["--config"].removeprefix(IN_THE_IMAGE), CONFIGS[module], changes)
    elif words[0] == "make":
        subprocess.run(["make", "-n", *words[1:], "VIDEOS=."], cwd=ROOT, check=True, capture_output=True)
    else:
        assert words[0] in PLAIN, words
        files = [word for word in words if word.startswith("deploy/") or word == "cluster.yaml"]
        assert all(any(ROOT.glob(file)) for file in files), words
