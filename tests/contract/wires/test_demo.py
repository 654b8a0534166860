"""Every key of a demo's sections reaches the stage that it belongs to; its own keys do what they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from pipelines import demo as program
from safa.config import ModelConfig, load_settings, parse_settings
from safa.config.demo import DemoConfig
from tests.contract.wires import test_evaluate, test_model, test_preprocess, test_synthetic, test_training
from tests.contract.wires.table import ABSENT, Row, Table, are, check, plain_key, with_key
from tests.contract.wires.world import Recorder, World

CONFIG = Path(__file__).parents[3] / "configs" / "demo.yaml"
# Sections, the tables of their keys, the stages that read them, and what the demo fills in itself.
SECTIONS: dict[str, tuple[Table, str, tuple[str, ...]]] = {
    "synthetic": (test_synthetic.TABLE, "synthetic", ()),
    "preprocess": (test_preprocess.TABLE, "preprocess", ("source", "out", "size")),
    "pretrain": (test_training.TABLE, "pretrain", ("runs", "name", "model", "data.clips")),
    "train": (test_training.TABLE, "train", ("runs", "name", "model", "data.clips", "stage.init")),
    "evaluate": (test_evaluate.TABLE, "evaluate", ("model", "clips", "out", "history")),
}
# Of a key whose value must go with another one.
TOGETHER: dict[str, dict[str, Any]] = {
    "tracking.mlflow.experiment": {"tracking.mlflow.uri": "http://127.0.0.1:1"},
    "schedule.milestones": {"schedule.cosine": False},
    "schedule.gamma": {"schedule.cosine": False},
    "num_people": {"num_held_out": 1},
    "perceptual.backend": {"stage.losses.perceptual": {"backend": "vgg19", "weights": "/vgg.pth"}},
    "perceptual.weights": {"stage.losses.perceptual": {"backend": "vgg19", "weights": "/vgg.pth"}},
    "swap.classes": {"swap.weights": "/parser.pth"},
    "scale.use_gpu": {"scale.num_workers": 2},
    "scale.min_workers": {"scale.num_workers": 2},
    "data.batch_size": {"data.batch_total": None, "scale.num_workers": 2},
}


def _demo(*changes: tuple[str, Any]) -> DemoConfig:
    data = load_settings(CONFIG, DemoConfig).model_dump(mode="json")
    if any(name == "videos" for name, _ in changes):
        data |= {"synthetic": None}
        data["preprocess"]["source"] = {"kind": "videos"}
    for name, value in changes:
        data = with_key(data, name, str(value) if isinstance(value, Path) else value)
    return parse_settings(data, DemoConfig, "test")


def _stage(config: DemoConfig, name: str) -> Any:
    """The settings of a stage as the chain runs it."""
    return next(stage for stage in program.stages_of(config) if stage.name == name).settings


def _value(settings: Any, key: str) -> Any:
    """As plain data, which a path or a tuple is not."""
    value = settings.model_dump(mode="json")
    for name in key.split("."):
        value = None if value is None else value.get(name)
    return value


def _passed_on() -> Iterator[tuple[str, Row]]:
    for section, (table, _, filled) in SECTIONS.items():
        seen: set[str] = set()
        for row in table.rows:
            key = plain_key(row.key)
            branch = "FullStage" if section == "pretrain" else "HeadStage"
            elsewhere = branch in row.key or (key.startswith("model") and section.endswith("train"))
            filled_in = any(key == name or key.startswith(f"{name}.") for name in filled)
            if key not in seen and not elsewhere and not filled_in and not key.endswith("kind"):
                seen.add(key)
                yield section, row


@pytest.mark.parametrize(("section", "row"), list(_passed_on()), ids=lambda part: getattr(part, "key", part))
def test_a_section_reaches_its_stage(world: World, section: str, row: Row) -> None:
    key = plain_key(row.key)
    value = row.other(world) if callable(row.other) else row.other
    if value is ABSENT:
        value = row.one(world) if callable(row.one) else row.one
    together = next((more for name, more in TOGETHER.items() if key.endswith(name)), {})
    changes = [(f"{section}.{name}", each) for name, each in together.items()]
    if key.startswith("landmarks.") and section == "preprocess":
        base = {"kind": "sidecar"} if key == "landmarks.folder" else test_preprocess._face_alignment(world)
        changes.append((f"{section}.landmarks", base))
    before = _stage(_demo(), SECTIONS[section][1])
    after = _stage(_demo(*changes, (f"{section}.{key}", value)), SECTIONS[section][1])
    expected = str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
    assert _value(after, key) == expected
    if _value(before, key) == expected:  # it is the demo's own value already
        other = row.one(world) if callable(row.one) else row.one
        again = _stage(_demo(*changes, (f"{section}.{key}", other)), SECTIONS[section][1])
        assert _value(again, key) != expected


def folders(config: DemoConfig) -> set[str]:
    """Where the stages write."""
    return {str(stage.folder.parents[-2]) for stage in program.stages_of(config)}


def processes(config: DemoConfig) -> int:
    asked = Recorder()
    with patch.object(program, "write_dataset", asked):
        program.stages_of(config)[0].work({})
    count: int = asked.first[1]["workers"]
    return count


def sizes(config: DemoConfig) -> tuple[int, int, int]:
    """Of the stored frames and of both models."""
    clips = _stage(config, "preprocess").size
    return clips, _stage(config, "pretrain").model.image_size, _stage(config, "train").model.image_size


def folder_of_videos(config: DemoConfig) -> tuple[str, str]:
    """What preprocessing reads, and the first stage."""
    return str(_stage(config, "preprocess").source.folder), program.stages_of(config)[0].name


OWN = Table(
    "demo",
    [
        Row("videos", "a", "b", folder_of_videos, are(("a", "preprocess"), ("b", "preprocess"))),
        Row("run", "a/x", "b/x", folders, are({"a"}, {"b"})),
        Row("processes", 2, 3, processes, are(2, 3)),
        Row("model.image_size", 64, 128, sizes, are((64, 64, 64), (128, 128, 128))),
    ],
    {},
)


@pytest.mark.parametrize("row", OWN.rows, ids=lambda row: row.key)
def test_wire(world: World, row: Row) -> None:
    check(world, row, lambda value: row.look(_demo((row.key, value))))


@pytest.mark.parametrize("row", test_model.TABLE.rows, ids=lambda row: row.name)
def test_the_model_reaches_both_stages(world: World, row: Row) -> None:
    """The whole section is passed on as it is: one size shows that, this shows that none is left out."""
    model = _demo().model
    assert isinstance(model, ModelConfig)
    for name in ("pretrain", "train"):
        assert _value(_stage(_demo(), name).model, row.key) == _value(model, row.key)


def test_every_section_is_known() -> None:
    assert set(DemoConfig.model_fields) == {*SECTIONS, "run", "videos", "processes", "model"}


def test_stages_find_what_the_ones_before_have_written() -> None:
    config = _demo()
    clips = config.run / "data" / "clips"
    pretrain, train = _stage(config, "pretrain"), _stage(config, "train")
    evaluate = _stage(config, "evaluate")
    assert (pretrain.data.clips, train.data.clips, evaluate.clips) == (clips, clips, clips)
    assert train.stage.init == pretrain.folder
    assert evaluate.model == train.folder
    assert evaluate.history == (pretrain.folder, train.folder)
