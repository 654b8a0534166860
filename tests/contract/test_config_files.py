"""Every YAML in configs/ and tests/configs/ loads: no unknown key, no wrong type, no value out of range."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from safa.config import Settings, load_settings
from safa.config.annotate import AnnotateConfig
from safa.config.demo import DemoConfig
from safa.config.inference import EvaluateConfig
from safa.config.loader import PRESETS
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
    "own_videos": DemoConfig,
    "preprocess": PreprocessConfig,
    "pretrain": TrainConfig,
    "synthetic": SyntheticConfig,
    "train": TrainConfig,
    "videos": PreprocessConfig,
}
NEEDED = {"own_videos": ("videos=DIR",)}  # what a user has to set
FILES = sorted([*CONFIGS.rglob("*.yaml"), *(ROOT / "tests" / "configs").rglob("*.yaml")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_loads(path: Path) -> None:
    settings = load_settings(path, KINDS[path.stem], NEEDED.get(path.stem, ()))
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
        load_settings(changed, KINDS[path.stem], NEEDED.get(path.stem, ()))
    assert str(changed) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "overrides", "message"),
    [
        ("train", ["stage.lrr=3"], "--set stage.lrr=3: unknown key 'stage.lrr'. Did you mean 'stage.lr'?"),
        ("demo", ["train.stage.lrr=3"], "--set train.stage.lrr=3: unknown key 'train.stage.lrr'. Did you"),
        ("train", ["stage.lr.generator=x"], "--set stage.lr.generator=x: key 'stage.lr.generator' is 'x'"),
        ("train", ["seed=1", "step.bf16=2"], "--set step.bf16=2: key 'step.bf16' is 2"),
        (
            "train",
            ["stage={kind: full, lrr: 3}"],
            "--set stage={kind: full, lrr: 3}: unknown key 'stage.lrr'",
        ),
        ("demo", ["train.data.batch_size=4"], "--set train.data.batch_size=4: key 'train.data': give batch_"),
    ],
)
def test_a_wrong_override_is_named_as_it_was_written(file: str, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as error:
        load_settings(CONFIGS / f"{file}.yaml", KINDS[file], overrides)
    assert str(error.value).startswith(message)


def test_a_wrong_key_of_the_file_is_not_blamed_on_an_override(tmp_path: Path) -> None:
    changed = tmp_path / "train.yaml"
    changed.write_text((CONFIGS / "train.yaml").read_text().replace("  init:", "  innit:"))
    with pytest.raises(UserError) as error:
        load_settings(changed, TrainConfig, ["seed=1", "stage.ema_decay=0.9"])
    assert str(error.value).startswith(f"{changed}: unknown key 'stage.innit'. Did you mean 'stage.init'?")


# Folders whose configs are steps of one chain, and the one that makes the clips.
CHAINS = {
    "configs": "preprocess",
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


PRESET_FILES = sorted(PRESETS.glob("*.yaml"))


@pytest.mark.parametrize("path", PRESET_FILES, ids=lambda path: path.stem)
def test_presets_have_sections_of_the_chain_alone(path: Path) -> None:
    """What no settings have would be left out in silence."""
    sections = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert "model" in sections
    assert set(sections) <= set(DemoConfig.model_fields)


def test_no_model_is_written_twice() -> None:
    texts = [path.read_text(encoding="utf-8") for path in FILES]
    assert not [text for text in texts if "\nmodel:\n" in text]


def test_a_preset_is_one_of_those_there_are(tmp_path: Path) -> None:
    changed = tmp_path / "train.yaml"
    text = (CONFIGS / "smoke" / "train.yaml").read_text()
    changed.write_text(text.replace("preset: smoke", "preset: huge"))
    with pytest.raises(UserError, match=r"'preset' is 'huge'\. Choose one of demo, published, small, smoke"):
        load_settings(changed, TrainConfig)
    with pytest.raises(UserError, match="unknown key 'preset'"):
        load_settings(CONFIGS / "synthetic.yaml", SyntheticConfig, ["preset=demo"])
    smaller = load_settings(CONFIGS / "smoke" / "train.yaml", TrainConfig, ["model.num_keypoints=3"])
    assert (smaller.model.num_keypoints, smaller.model.image_size) == (3, 64)
