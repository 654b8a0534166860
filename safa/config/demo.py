"""Settings of the whole chain in one file: on the synthetic data set, or on a folder of videos.

The sections ``preprocess``, ``pretrain``, ``train`` and ``evaluate`` are the settings of those programs, less
what follows from the run folder and from the model (folders, names, frame size, starting weights). That is
filled in here, in ``_derived``; a section that sets it is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import (
    Field,
    FieldSerializationInfo,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from safa.config.inference import EvaluateConfig
from safa.config.loader import Settings
from safa.config.model import ModelConfig
from safa.config.preprocess import PreprocessConfig
from safa.config.synthetic import SyntheticConfig
from safa.config.training import TrainConfig
from safa.files import Location, join

_STAGES: Mapping[str, type[Settings]] = {
    "preprocess": PreprocessConfig,
    "pretrain": TrainConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
}
_STAGE_KINDS = {"pretrain": "head", "train": "full"}  # `stage.kind` of those that train


class DemoConfig(Settings):
    """The whole chain in one run folder; every stage's settings are complete."""

    run: Location
    videos: Location | None = None  # folder of your own videos, in place of `synthetic`
    model: ModelConfig
    processes: int | None = Field(default=None, ge=1)  # that render the synthetic videos; None: one a core
    synthetic: SyntheticConfig | None = Field(default=None, validate_default=True)
    preprocess: PreprocessConfig
    pretrain: TrainConfig
    train: TrainConfig
    evaluate: EvaluateConfig

    @field_validator("synthetic")
    @classmethod
    def _one_source(cls, synthetic: SyntheticConfig | None, info: ValidationInfo) -> SyntheticConfig | None:
        """Videos or a synthetic data set; before the sections, whose settings depend on which it is."""
        if "videos" in info.data and (synthetic is None) == (info.data["videos"] is None):
            if synthetic is None:
                fix = "Give the folder of your videos: --set videos=DIR."
                raise PydanticCustomError("demo", "no videos are named", {"fix": fix, "says_all": True})
            given = "it and 'videos' exclude each other"
            raise PydanticCustomError("demo", given, {"fix": "Remove one of them."})
        return synthetic

    @field_validator(*_STAGES, mode="before")
    @classmethod
    def _complete(cls, section: object, info: ValidationInfo) -> object:
        return _completed(str(info.field_name), section, info.data)

    @field_serializer(*_STAGES)
    def _without_derived(self, settings: Settings, info: FieldSerializationInfo) -> dict[str, Any]:
        """A dumped demo is as it was written, so that it can be read back."""
        section: dict[str, Any] = settings.model_dump(mode=info.mode)
        for key in _derived(info.field_name, self.run, self.model, self.videos):
            *parents, leaf = key.split(".")
            node = section
            for name in parents:
                node = node[name]
            del node[leaf]
        return section

    @classmethod
    def is_derived(cls, key: str) -> bool:
        """See ``Settings``."""
        stage, _, rest = key.partition(".")
        derived = _derived(stage, Path(), ModelConfig(), Path()) if stage in _STAGES and rest else {}
        return any(f"{rest}.".startswith(f"{each}.") for each in derived)

    @property
    def synthetic_folder(self) -> Location:
        """Folder of the synthetic data set."""
        return _synthetic_folder(self.run)


def _synthetic_folder(run: Location) -> Location:
    return join(run, "videos")


def _derived(stage: str, run: Location, model: ModelConfig, videos: Location | None) -> dict[str, Any]:
    """What the demo sets in a stage's settings: dotted key to plain value, as a config file would have it."""
    clips = str(join(run, "data", "clips"))
    head, full = str(join(run, "pretrain")), str(join(run, "train"))
    if stage == "preprocess":
        stored = {"out": str(join(run, "data")), "size": model.image_size}
        if videos is not None:
            return {"source.folder": str(videos), **stored}
        csv, folder = (str(join(_synthetic_folder(run), name)) for name in ("metadata.csv", "videos"))
        return {"source": {"kind": "metadata", "csv": csv, "videos": folder}, **stored}
    if stage == "evaluate":
        return {"model": full, "clips": clips, "out": str(join(run, "report")), "history": [head, full]}
    derived = {"runs": str(run), "name": stage, "model": model.model_dump(mode="json"), "data.clips": clips}
    return derived | ({"stage.init": head} if stage == "train" else {})


def _completed(stage: str, section: object, known: Mapping[str, Any]) -> object:
    """A section of the file as the stage's settings, validated as a file of its own would be.

    Args:
        known: the fields that were read before. If ``run`` or ``model`` is wrong, it is not among them, and
            its error comes first; the section is then checked with any other.
    """
    if not isinstance(section, dict):
        return section  # complete settings; anything else is refused by the field's type
    if stage in _STAGE_KINDS:
        _require_kind(section, "stage", [_STAGE_KINDS[stage]])
    elif stage == "preprocess" and known.get("videos") is not None:
        _require_kind(section, "source", ["videos", "clips"])
    whole = json.loads(json.dumps(section))  # a copy
    run, model = known.get("run", Path("run")), known.get("model", ModelConfig())
    derived = _derived(stage, run, model, known.get("videos"))
    for key, value in derived.items():
        *parents, leaf = key.split(".")
        node = whole
        for name in parents:
            node = node.get(name) if isinstance(node, dict) else None
        if isinstance(node, dict):  # otherwise the parent is missing, or no section: validation reports it
            if leaf in node:
                raise _error(key, node[leaf], "the demo sets this key itself", "Remove it.")
            node[leaf] = value
    return _STAGES[stage].model_validate_json(json.dumps(whole))


def _require_kind(section: Mapping[str, Any], key: str, expected: Sequence[str]) -> None:
    part = section.get(key)
    kind = part.get("kind") if isinstance(part, dict) else None
    if kind is not None and kind not in expected:
        raise _error(f"{key}.kind", kind, f"must be {' or '.join(expected)} here", "Correct the value.")


def _error(key: str, value: object, message: str, fix: str) -> ValidationError:
    """An error at a key of a section; pydantic puts the section's name before it."""
    error = PydanticCustomError("demo", message, {"fix": fix})
    details = InitErrorDetails(type=error, loc=tuple(key.split(".")), input=value)
    return ValidationError.from_exception_data("demo", [details])
