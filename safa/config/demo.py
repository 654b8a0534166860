"""Settings of the demo: those of its stages, less what follows from the run folder and from the model.

A demo config is one file. Folders, names, picture sizes and the model are told once; a stage's section that
tells them again is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import Field, model_validator

from safa.config.inference import EvaluateConfig
from safa.config.loader import Settings
from safa.config.model import ModelConfig
from safa.config.preprocess import MetadataSource, PreprocessConfig
from safa.config.synthetic import SyntheticConfig
from safa.config.training import DataConfig, FullStage, HeadStage, TrainConfig

S = TypeVar("S", bound=Settings)

_LATER = Path("-")  # stands in a section until the whole config is known


def _follows(value: Any) -> Any:
    """A field that the demo fills in."""
    return Field(default=value, exclude=True)


class _Section(Settings):
    """A stage's settings in which some fields follow from the rest of the demo."""

    follows: ClassVar[frozenset[str]]

    @model_validator(mode="after")
    def _tells_nothing_twice(self) -> Self:
        given = sorted(self.follows & self.model_fields_set)
        if given:
            raise ValueError(f"the demo sets {', '.join(given)} itself; remove it here")
        return self


class DemoPreprocess(_Section, PreprocessConfig):
    """Preprocessing of the demo's videos, at the model's picture size."""

    follows = frozenset({"source", "out", "size"})
    source: MetadataSource = _follows(MetadataSource(kind="metadata", csv=_LATER, videos=_LATER))
    out: Path = _follows(_LATER)
    size: int = _follows(16)


class DemoData(_Section, DataConfig):
    """Training data of the demo."""

    follows = frozenset({"clips"})
    clips: Path = _follows(_LATER)


class DemoTraining(_Section, TrainConfig):
    """One training stage of the demo."""

    follows = frozenset({"runs", "name", "model"})
    runs: Path = _follows(_LATER)
    name: str = _follows("stage")
    model: ModelConfig = _follows(ModelConfig())
    data: DemoData


class DemoEvaluate(_Section, EvaluateConfig):
    """Evaluation and report of the demo."""

    follows = frozenset({"model", "clips", "out", "history"})
    model: Path = _follows(_LATER)
    clips: Path = _follows(_LATER)
    out: Path = _follows(_LATER)
    history: tuple[Path, ...] = _follows(())


class DemoConfig(Settings):
    """The whole chain in one run folder."""

    run: Path
    model: ModelConfig
    processes: int = Field(default=2, ge=1)  # that draw the videos
    synthetic: SyntheticConfig
    preprocess: DemoPreprocess
    pretrain: DemoTraining
    train: DemoTraining
    evaluate: DemoEvaluate

    @model_validator(mode="after")
    def _stages_in_order(self) -> Self:
        if not isinstance(self.pretrain.stage, HeadStage):
            raise ValueError("pretrain.stage.kind must be head")
        if not isinstance(self.train.stage, FullStage):
            raise ValueError("train.stage.kind must be full")
        if self.train.stage.init is not None:
            raise ValueError("the demo sets train.stage.init itself; remove it")
        return self

    @property
    def videos(self) -> Path:
        """Folder of the synthetic data set."""
        return self.run / "videos"

    @property
    def report(self) -> Path:
        """Folder of the report."""
        return self.run / "report"

    def preprocess_settings(self) -> PreprocessConfig:
        """Preprocessing with everything filled in."""
        made = self.videos
        source = MetadataSource(kind="metadata", csv=made / "metadata.csv", videos=made / "videos")
        size = self.model.image_size
        return _filled(PreprocessConfig, self.preprocess, source=source, out=self.run / "data", size=size)

    def pretrain_settings(self) -> TrainConfig:
        """Stage 1 with everything filled in."""
        return self._training(self.pretrain, "pretrain", self.pretrain.stage)

    def train_settings(self) -> TrainConfig:
        """Stage 2 with everything filled in: it starts from stage 1."""
        init = self.pretrain_settings().folder
        return self._training(self.train, "train", self.train.stage.model_copy(update={"init": init}))

    def evaluate_settings(self) -> EvaluateConfig:
        """Evaluation with everything filled in."""
        runs = (self.pretrain_settings().folder, self.train_settings().folder)
        return _filled(
            EvaluateConfig, self.evaluate, model=runs[1], clips=self._clips, out=self.report, history=runs
        )

    @property
    def _clips(self) -> Path:
        return self.preprocess_settings().out / "clips"

    def _training(self, section: DemoTraining, name: str, stage: HeadStage | FullStage) -> TrainConfig:
        data = _filled(DataConfig, section.data, clips=self._clips)
        return _filled(
            TrainConfig, section, runs=self.run, name=name, model=self.model, data=data, stage=stage
        )


def _filled(kind: type[S], section: Settings, /, **values: Any) -> S:
    """A stage's settings from its section and what follows."""
    return kind.model_validate({**dict(section), **values})
