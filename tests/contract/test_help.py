"""``--help`` of every program ends well and names what it takes."""

from __future__ import annotations

import importlib

import pytest

import safa
from safa.cli import main

PROGRAMS = ("preprocess", "annotate", "train", "evaluate", "demo", "launch")


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_of_a_pipeline(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"pipelines.{name}").main(["--help"])
    assert ended.value.code == 0
    assert ("--check" if name == "launch" else "--config") in capsys.readouterr().out


def test_safa_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"safa {safa.__version__}\n"
