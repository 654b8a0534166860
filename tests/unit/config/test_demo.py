from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines.demo import demo, stages_of
from safa.config import dump_settings, load_settings, parse_settings
from safa.config.demo import DemoConfig
from safa.config.inference import EvaluateConfig
from safa.config.preprocess import ClipsSource, MetadataSource, PreprocessConfig, VideosSource
from safa.config.training import FullStage, TrainConfig
from safa.errors import UserError

CONFIG = Path(__file__).parents[3] / "configs" / "smoke" / "demo.yaml"


@pytest.fixture
def config() -> DemoConfig:
    return load_settings(CONFIG, DemoConfig, ["run=some/run"])


def test_each_stage_starts_from_the_one_before(config: DemoConfig) -> None:
    clips, first, second = config.preprocess, config.pretrain, config.train
    scored = config.evaluate
    assert isinstance(clips.source, MetadataSource)
    assert clips.source.csv.parent == clips.source.videos.parent == config.synthetic_folder
    assert first.data.clips == second.data.clips == scored.clips == clips.out / "clips"
    assert isinstance(second.stage, FullStage)
    assert second.stage.init == first.folder
    assert scored.model == second.folder
    assert scored.history == (first.folder, second.folder)
    assert scored.out == Path("some/run/report")


def test_the_model_and_its_size_are_set_once(config: DemoConfig) -> None:
    assert config.pretrain.model == config.train.model == config.model
    assert config.preprocess.size == config.model.image_size == 64


def test_stages_are_settings_of_their_own_programs(config: DemoConfig) -> None:
    """What the demo fills in is what each program would accept from a file."""
    for settings, kind in (
        (config.preprocess, PreprocessConfig),
        (config.train, TrainConfig),
        (config.evaluate, EvaluateConfig),
    ):
        assert type(settings) is kind
        assert parse_settings(yaml.safe_load(dump_settings(settings)), kind, "test") == settings


def test_a_dumped_demo_reads_back_to_the_same(config: DemoConfig) -> None:
    assert parse_settings(yaml.safe_load(dump_settings(config)), DemoConfig, "test") == config


@pytest.mark.parametrize(
    "override",
    [
        "preprocess.source={kind: clips, folder: x}",
        "preprocess.out=x",
        "preprocess.size=32",
        "pretrain.name=x",
        "pretrain.runs=x",
        "pretrain.model={image_size: 64}",
        "train.data.clips=x",
        "train.stage.init=x",
        "evaluate.model=x",
        "evaluate.clips=x",
        "evaluate.out=x",
        "evaluate.history=[x]",
    ],
)
def test_what_the_demo_sets_is_refused_in_a_section(override: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(
        UserError, match=rf"key '{key}'( is .*)?: the demo sets this key itself\. Remove it\.$"
    ):
        load_settings(CONFIG, DemoConfig, [override])


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("preprocess.min_framse=3", "unknown key 'preprocess.min_framse'"),
        ("train.data.batch=3", "unknown key 'train.data.batch'"),
        ("train.data={}", "key 'train.data': give batch_size .of a worker. or batch_total"),
        ("evaluate.frames=1", "key 'evaluate.frames' is 1"),
        ("evaluate.frames='3'", "key 'evaluate.frames' is '3'"),
        ("pretrain=3", "key 'pretrain' is 3"),
        ("model.image_size=66", "--set model.image_size=66: key 'model': .*does not fit"),
    ],
)
def test_sections_are_as_strict_as_files(override: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as error:
        load_settings(CONFIG, DemoConfig, [override])
    assert "\n" not in str(error.value)
    assert "more)" not in str(error.value)


def test_stages_cannot_be_exchanged() -> None:
    with pytest.raises(UserError, match=r"key 'train\.stage\.kind' is 'head': must be full here"):
        load_settings(CONFIG, DemoConfig, ["train.stage={kind: head}"])
    with pytest.raises(UserError, match=r"key 'pretrain\.stage\.kind' is 'full': must be head here"):
        load_settings(CONFIG, DemoConfig, ["pretrain.stage={kind: full}"])


OWN = CONFIG.parents[1] / "own_videos.yaml"


@pytest.mark.parametrize(("preset", "size"), [("demo", 64), ("small", 128), ("published", 256)])
def test_own_videos_at_each_size(preset: str, size: int) -> None:
    config = load_settings(OWN, DemoConfig, ["videos=some/videos", f"preset={preset}"])
    source = config.preprocess.source
    assert isinstance(source, VideosSource)
    assert (source.folder, source.split) == (Path("some/videos"), "auto")
    assert (config.preprocess.size, config.train.model.image_size) == (size, size)
    assert config.preprocess.min_box == size
    assert config.pretrain.data.min_identities == config.train.data.min_identities == 1
    assert parse_settings(yaml.safe_load(dump_settings(config)), DemoConfig, "test") == config


def test_own_clips() -> None:
    override = "preprocess.source={kind: clips, split: auto}"
    source = load_settings(OWN, DemoConfig, ["videos=x", override]).preprocess.source
    assert isinstance(source, ClipsSource)
    assert (source.folder, source.split) == (Path("x"), "auto")


def test_videos_or_a_synthetic_data_set() -> None:
    with pytest.raises(UserError, match=r"yaml: no videos are named. Give the folder .* --set videos=DIR"):
        load_settings(OWN, DemoConfig)
    with pytest.raises(UserError, match=r"it and 'videos' exclude each other"):
        load_settings(CONFIG, DemoConfig, ["videos=x"])


def test_a_missing_folder_of_videos_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    config = load_settings(OWN, DemoConfig, [f"videos={tmp_path / 'none'}", f"run={tmp_path / 'run'}"])
    with pytest.raises(UserError, match=r"videos=.*none: no such folder"):
        demo(config)
    assert not (tmp_path / "run").exists()


def test_own_videos_skip_the_rendering() -> None:
    config = load_settings(OWN, DemoConfig, ["videos=x"])
    assert [stage.name for stage in stages_of(config)] == ["preprocess", "pretrain", "train", "evaluate"]
