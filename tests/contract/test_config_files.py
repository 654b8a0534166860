"""Every YAML in configs/ loads: no unknown key, no wrong type, no value out of range."""

from __future__ import annotations

from pathlib import Path

import pytest

from safa.config import Settings, load_settings
from safa.config.demo import DemoConfig
from safa.config.inference import EvaluateConfig
from safa.config.preprocess import PreprocessConfig
from safa.config.synthetic import SyntheticConfig
from safa.config.training import FullStage, HeadStage, TrainConfig
from safa.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"
KINDS: dict[str, type[Settings]] = {
    "clips": PreprocessConfig,
    "demo": DemoConfig,
    "evaluate": EvaluateConfig,
    "preprocess": PreprocessConfig,
    "pretrain": TrainConfig,
    "synthetic": SyntheticConfig,
    "train": TrainConfig,
    "videos": PreprocessConfig,
}
FILES = sorted(CONFIGS.rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_it_loads(path: Path) -> None:
    settings = load_settings(path, KINDS[path.stem])
    if path.stem == "pretrain":
        assert isinstance(settings, TrainConfig)
        assert isinstance(settings.stage, HeadStage)
    if path.stem == "train":
        assert isinstance(settings, TrainConfig)
        assert isinstance(settings.stage, FullStage)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_an_unknown_key_is_told_with_file_and_key(path: Path, tmp_path: Path) -> None:
    changed = tmp_path / path.name
    changed.write_text(path.read_text() + "\nnonsense_key: 1\n")
    with pytest.raises(UserError, match="nonsense_key") as error:
        load_settings(changed, KINDS[path.stem])
    assert str(changed) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("folder", [".", "real"])
def test_both_stages_have_the_same_model(folder: str) -> None:
    stages = [load_settings(CONFIGS / folder / f"{name}.yaml", TrainConfig) for name in ("pretrain", "train")]
    assert stages[0].model == stages[1].model
