"""Every YAML in configs/ and tests/configs/ loads: no unknown key, no wrong type, no value out of range."""

from __future__ import annotations

from pathlib import Path

import pytest

from safa.config import Settings, load_settings
from safa.config.annotate import AnnotateConfig
from safa.config.demo import DemoConfig
from safa.config.inference import EvaluateConfig
from safa.config.preprocess import PreprocessConfig
from safa.config.synthetic import SyntheticConfig
from safa.config.training import FullStage, HeadStage, TrainConfig
from safa.errors import UserError

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
KINDS: dict[str, type[Settings]] = {
    "annotate": AnnotateConfig,
    "clips": PreprocessConfig,
    "demo": DemoConfig,
    "evaluate": EvaluateConfig,
    "preprocess": PreprocessConfig,
    "pretrain": TrainConfig,
    "synthetic": SyntheticConfig,
    "train": TrainConfig,
    "videos": PreprocessConfig,
}
FILES = sorted([*CONFIGS.rglob("*.yaml"), *(ROOT / "tests" / "configs").rglob("*.yaml")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_loads(path: Path) -> None:
    settings = load_settings(path, KINDS[path.stem])
    if path.stem == "pretrain":
        assert isinstance(settings, TrainConfig)
        assert isinstance(settings.stage, HeadStage)
    if path.stem == "train":
        assert isinstance(settings, TrainConfig)
        assert isinstance(settings.stage, FullStage)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_misspelt_key_is_reported_in_one_line_with_file_and_key(path: Path, tmp_path: Path) -> None:
    changed = tmp_path / path.name
    changed.write_text(path.read_text() + "\nnonsense_key: 1\n")
    with pytest.raises(UserError, match="nonsense_key") as error:
        load_settings(changed, KINDS[path.stem])
    assert str(changed) in str(error.value)
    assert "\n" not in str(error.value)


# Folders whose configs are steps of one chain, and the one that makes the clips.
CHAINS = {
    "configs": "preprocess",
    "configs/own": "videos",
    "configs/smoke": "preprocess",
    "tests/configs/real": "preprocess",
}


@pytest.mark.parametrize("folder", CHAINS)
def test_both_stages_have_the_same_model(folder: str) -> None:
    stages = [load_settings(ROOT / folder / f"{name}.yaml", TrainConfig) for name in ("pretrain", "train")]
    assert stages[0].model == stages[1].model


@pytest.mark.parametrize("folder", CHAINS)
def test_each_step_reads_what_the_one_before_it_writes(folder: str) -> None:
    made = load_settings(ROOT / folder / f"{CHAINS[folder]}.yaml", PreprocessConfig)
    pretrain, train = (load_settings(ROOT / folder / f"{n}.yaml", TrainConfig) for n in ("pretrain", "train"))
    evaluate = load_settings(ROOT / folder / "evaluate.yaml", EvaluateConfig)
    assert {pretrain.data.clips, train.data.clips, evaluate.clips} == {made.out / "clips"}
    assert isinstance(train.stage, FullStage)
    assert train.stage.init == pretrain.folder
    assert evaluate.model == train.folder
    assert evaluate.history == (pretrain.folder, train.folder)
    assert made.size == train.model.image_size


def test_both_kinds_of_own_videos_make_the_same_folder() -> None:
    kinds = [
        load_settings(CONFIGS / "own" / f"{kind}.yaml", PreprocessConfig) for kind in ("videos", "clips")
    ]
    assert kinds[0].out == kinds[1].out
    assert kinds[0].size == kinds[1].size
