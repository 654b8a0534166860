"""An error about a file that a setting names says which setting."""

from __future__ import annotations

from pathlib import Path

import pytest

from safa.config import Settings, naming_keys
from safa.config.demo import DemoConfig
from safa.errors import UserError
from safa.files import Location


class Part(Settings):
    weights: Location


class Job(Settings):
    part: Part
    other: Part | None = None
    folders: tuple[Location, ...] = ()
    clips: Location | None = None
    out: Location = Path("made")


def place(job: Job, where: str) -> str:
    with pytest.raises(UserError) as caught, naming_keys(job, ("out",)):
        raise UserError("is not there", where, "Look.")
    return caught.value.where


@pytest.mark.parametrize(
    ("where", "named"),
    [
        ("a/w", "part.weights: a/w"),
        ("s3://bucket/x", "other.weights: s3://bucket/x"),  # its password is not shown
        ("two", "folders.1: two"),
        ("a/w/deeper", "a/w/deeper"),
        ("made", "made"),
        ("", ""),
    ],
)
def test_the_key_stands_before_the_location(where: str, named: str) -> None:
    job = Job(
        part=Part(weights=Path("a/w")),
        other=Part(weights="s3://key:word@bucket/x"),
        folders=(Path("one"), Path("two")),
    )
    assert place(job, where) == named


def test_absolute_paths_are_the_same_and_several_keys_are_all_named(tmp_path: Path) -> None:
    job = Job(part=Part(weights=Path("w")), other=Part(weights=Path("w")))
    assert place(job, str(Path("w").absolute())) == f"part.weights or other.weights: {Path('w').absolute()}"


class Chain(Settings):
    run: Location
    part: Part

    @classmethod
    def is_derived(cls, key: str) -> bool:
        return key == "part.weights"


def test_keys_that_a_program_fills_in_are_not_named() -> None:
    chain = Chain(run=Path("v"), part=Part(weights=Path("v")))
    with pytest.raises(UserError, match=r"^run: v: is full"), naming_keys(chain):
        raise UserError("is full", "v")
    with pytest.raises(UserError, match=r"^v: is full"), naming_keys(chain, ("run",)):
        raise UserError("is full", "v")


def test_of_the_demo_they_are_those_of_its_stages() -> None:
    derived = (
        "preprocess.source.folder",
        "preprocess.out",
        "train.stage.init",
        "evaluate.history.1",
        "train.runs",
    )
    assert all(map(DemoConfig.is_derived, derived))
    written = (
        "run",
        "videos",
        "preprocess.landmarks.weights",
        "train.data.stage_to",
        "evaluate.scorers.lpips",
    )
    assert not any(map(DemoConfig.is_derived, written))
