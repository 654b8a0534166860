"""Command lines that cannot be parsed: one line, code 2, and the flag that was meant."""

import pytest

from pipelines import demo
from safa.cli import main

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
