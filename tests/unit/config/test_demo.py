from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from safa.config import dump_settings, load_settings, parse_settings
from safa.config.demo import DemoConfig
from safa.config.inference import EvaluateConfig
from safa.config.preprocess import MetadataSource, PreprocessConfig
from safa.config.training import FullStage, TrainConfig
from safa.errors import UserError

CONFIG = Path(__file__).parents[3] / "configs" / "smoke" / "demo.yaml"


@pytest.fixture
def config() -> DemoConfig:
    return load_settings(CONFIG, DemoConfig, ["run=some/run"])


def test_each_stage_starts_from_the_one_before(config: DemoConfig) -> None:
    clips, first, second = config.preprocess_settings(), config.pretrain_settings(), config.train_settings()
    scored = config.evaluate_settings()
    assert isinstance(clips.source, MetadataSource)
    assert clips.source.csv.parent == clips.source.videos.parent == config.videos
    assert first.data.clips == second.data.clips == scored.clips == clips.out / "clips"
    assert isinstance(second.stage, FullStage)
    assert second.stage.init == first.folder
    assert scored.model == second.folder
    assert scored.history == (first.folder, second.folder)
    assert scored.out == Path("some/run/report")


def test_the_model_and_its_size_are_told_once(config: DemoConfig) -> None:
    assert config.pretrain_settings().model == config.train_settings().model == config.model
    assert config.preprocess_settings().size == config.model.image_size == 64


def test_stages_are_settings_of_their_own_programs(config: DemoConfig) -> None:
    """What the demo fills in is what each program would accept from a file."""
    for settings, kind in (
        (config.preprocess_settings(), PreprocessConfig),
        (config.train_settings(), TrainConfig),
        (config.evaluate_settings(), EvaluateConfig),
    ):
        assert type(settings) is kind
        assert parse_settings(yaml.safe_load(dump_settings(settings)), kind, "test") == settings


def test_a_dumped_demo_reads_back_to_the_same(config: DemoConfig) -> None:
    assert parse_settings(yaml.safe_load(dump_settings(config)), DemoConfig, "test") == config


@pytest.mark.parametrize(
    "override",
    ["preprocess.out=x", "preprocess.size=32", "train.data.clips=x", "pretrain.name=x", "evaluate.model=x"],
)
def test_nothing_can_be_told_twice(override: str) -> None:
    key = override.partition("=")[0].rpartition(".")[2]
    with pytest.raises(UserError, match=f"the demo sets {key} itself"):
        load_settings(CONFIG, DemoConfig, [override])


def test_stages_cannot_be_exchanged() -> None:
    with pytest.raises(UserError, match=r"train\.stage\.kind must be full"):
        load_settings(CONFIG, DemoConfig, ["train.stage={kind: head}"])
    with pytest.raises(UserError, match=r"pretrain\.stage\.kind must be head"):
        load_settings(CONFIG, DemoConfig, ["pretrain.stage={kind: full}"])
    with pytest.raises(UserError, match=r"sets train\.stage\.init itself"):
        load_settings(CONFIG, DemoConfig, ["train.stage.init=x"])
