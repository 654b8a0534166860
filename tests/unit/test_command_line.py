"""Command lines that cannot be parsed: one line, code 2, and the flag that was meant."""

from pathlib import Path

import pytest

from pipelines import demo
from safa.cli import build_parser, main
from safa.config import parse_settings
from safa.config.training import DataConfig
from safa.errors import UserError
from safa.files import location

CASES = [
    (
        ["animate", "a", "b", "-o", "c.mp4", "--chekpoint", "x"],
        "unknown argument --chekpoint; did you mean --checkpoint?",
    ),
    (
        ["animate", "a", "b", "-o", "c.mp4", "--max-frame=2"],
        "unknown argument --max-frame=2; did you mean --max-frames?",
    ),
    (["animate", "a", "b", "c", "-o", "c.mp4"], "unknown argument c."),
    (["animate"], "required: source, driving, -o/--output"),
    (["animat"], "unknown command animat; did you mean animate? See `safa --help`."),
    (["checkpoint", "conv"], "unknown action conv; did you mean convert? See `safa checkpoint --help`."),
    (
        ["inspect", "x", "--face", "2"],
        "unknown argument --face; did you mean --faces? See `safa inspect --help`.",
    ),
    (["inspect", "x", "--faces", "two"], "argument --faces: 'two' is not a whole number."),
    (["animate", "a", "b", "-o", "c.mp4", "--fps", "x"], "argument --fps: 'x' is not a number."),
    (["animate", "a", "b", "--outputs", "c"], "required: -o/--output; did you mean --output by --outputs?"),
    (["animate", "a", "b", "-o", ""], "argument -o/--output: is empty: give a path."),
    (["swap", "a", "b", "-o", "c", "--detector", "x"], "unknown value of --detector: x; there are 'auto"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), CASES, ids=lambda value: " ".join(value)[:40])
def test_a_line_that_cannot_be_parsed(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ending:
        main(words)
    assert ending.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert lines[0].endswith("--help`.")


def test_pipelines_know_flags_by_their_whole_names_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        demo.main(["--config", "a.yaml", "--se", "run=b"])
    assert ending.value.code == 2
    assert "did you mean --set?" in capsys.readouterr().err


def test_the_home_folder_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves ``--output=~/out.mp4`` and ``--set key=~/folder`` as they are."""
    monkeypatch.setenv("HOME", str(tmp_path))
    parsed = build_parser().parse_args(
        ["animate", "~/a", "b", "--output=~/out.mp4", "--grid", "~no-such-person/g"]
    )
    assert parsed.output == tmp_path / "out.mp4"
    assert parsed.grid == Path("~no-such-person/g")  # no such person: the name of a folder
    assert location("~/data") == tmp_path / "data"
    assert location("s3://bucket/~/data") == "s3://bucket/~/data"
    written = {"clips": "~/data", "batch_size": 1, "stage_to": "~/scratch"}
    settings = parse_settings(written, DataConfig, "test")
    assert (settings.clips, settings.stage_to) == (tmp_path / "data", tmp_path / "scratch")
    with pytest.raises(UserError, match=r"clips.*is empty: give a path"):
        parse_settings(written | {"clips": ""}, DataConfig, "test")
