"""Mistakes are named as they were written, where they were written, with what would be right."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from safa.config import Settings, load_settings
from safa.config.annotate import AnnotateConfig
from safa.config.demo import DemoConfig
from safa.config.inference import EvaluateConfig
from safa.config.preprocess import PreprocessConfig
from safa.config.training import TrainConfig
from safa.errors import UserError

CONFIGS = Path(__file__).parents[3] / "configs"
MODELS: dict[str, type[Settings]] = {
    "preprocess": PreprocessConfig,
    "pretrain": TrainConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "annotate": AnnotateConfig,
    "own_videos": DemoConfig,
}
SAID = [line for line in (Path(__file__).parent / "mistakes.txt").read_text().splitlines() if line[0] != "#"]


@pytest.mark.parametrize("line", SAID, ids=lambda line: line.partition(" |")[0])
def test_what_is_said(line: str) -> None:
    written, _, said = line.partition(" | ")
    name, *overrides = shlex.split(written)
    with pytest.raises(UserError) as caught:
        load_settings(CONFIGS / f"{name}.yaml", MODELS[name], overrides)
    assert str(caught.value) == f"--set {overrides[-1]}: {said}"


@pytest.mark.parametrize(
    ("overrides", "place"),
    [
        (["data.batch_total=2", "data.batch_size=null"], "--set data.batch_total=2"),
        (["data.batch_total=4", "data.min_identities=3"], "--set data.batch_total=4"),
        (["scale.min_workers=9", "scale.cpus_per_worker=2.0"], "--set scale.min_workers=9"),
        (["stage.kind=full", "data.batch_total=4"], "--set data.batch_total=4"),
    ],
)
def test_of_several_the_one_that_the_reason_names_is_to_blame(overrides: list[str], place: str) -> None:
    with pytest.raises(UserError) as caught:
        load_settings(CONFIGS / "train.yaml", TrainConfig, overrides)
    assert caught.value.where == place


def test_the_file_is_to_blame_for_what_it_has(tmp_path: Path) -> None:
    text = (
        (CONFIGS / "train.yaml").read_text().replace("  batch_size: 16", "  batch_size: 16\n  batch_total: 4")
    )
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_settings(tmp_path / "mine.yaml", TrainConfig, ["data.clips=foo", "stage.kind=full"])
    assert caught.value.where == str(tmp_path / "mine.yaml")
    (tmp_path / "mine.yaml").write_text((CONFIGS / "train.yaml").read_text() + '"data.clips": 3')
    with pytest.raises(UserError, match=r"unknown key 'data.clips'\. Write data: {clips: \.\.\.}\."):
        load_settings(tmp_path / "mine.yaml", TrainConfig)


def test_a_run_may_be_named_by_its_date() -> None:
    assert load_settings(CONFIGS / "train.yaml", TrainConfig, ["name=2024-05-01"]).name == "2024-05-01"


@pytest.mark.parametrize(
    "override",
    ["data.clips=s3://KEY:SECRET@bucket/x", "tracking.mlflow={uri: 'http://u:SECRET@h', experiment: x}"],
)
def test_keys_of_a_store_are_not_shown(override: str) -> None:
    with pytest.raises(UserError) as caught:
        load_settings(CONFIGS / "train.yaml", TrainConfig, [override, "data=3"])
    assert "SECRET" not in str(caught.value)
    with pytest.raises(UserError) as caught:
        load_settings(CONFIGS / "train.yaml", TrainConfig, [override, "x=s3://a:SECRET@b/c"])
    assert "SECRET" not in str(caught.value)
