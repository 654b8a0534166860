"""What the programs share with others: the folder they hold, and the machines that may be taken away."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines import preprocess, shared_folder, train
from pipelines.lease import exclusive
from pipelines.shared_folder import PROBE, Probe
from safa.config import Settings, load_settings
from safa.config.preprocess import PreprocessConfig
from safa.config.training import TrainConfig
from safa.errors import UserError

SMOKE = Path(__file__).parents[3] / "configs" / "smoke"


@pytest.mark.parametrize(
    ("program", "name", "model", "key"),
    [
        (preprocess.preprocess, "preprocess", PreprocessConfig, "out"),
        (train.train, "train", TrainConfig, "runs"),
    ],
)
def test_a_program_refuses_a_folder_in_which_another_works(
    program: Any, name: str, model: type[Settings], key: str, tmp_path: Path
) -> None:
    config: Any = load_settings(SMOKE / f"{name}.yaml", model, [f"{key}={tmp_path}"])
    folder = config.folder if key == "runs" else tmp_path
    with exclusive(folder), pytest.raises(UserError, match=rf"at work here \(process {os.getpid()}\)"):
        program(config)
    assert list(tmp_path.rglob("*.*")) == [], "nothing was written"


def test_workers_that_do_not_see_the_folder_all_return_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only rank 1 does not see it, and rank 0 reports it, too: else Ray would start the group again."""
    complaint = f"node 10.0.0.7 does not see {tmp_path}"
    group = SimpleNamespace(gather=lambda text: [text, complaint])
    monkeypatch.setattr(train, "RayContext", lambda notice, run: group)
    monkeypatch.setattr(train, "fit", lambda *_: pytest.fail("it must not train"))
    monkeypatch.setattr(shared_folder, "LOOK_FOR", 0.0)
    (tmp_path / f"{PROBE}here").touch()
    settings = load_settings(SMOKE / "train.yaml", TrainConfig).model_dump(mode="json")
    arguments = {"settings": settings, "notice": None, "probe": Probe(str(tmp_path), f"{PROBE}here")}
    assert train._worker(arguments)["error"][0] == complaint


def test_a_new_notice_of_preemption_saves_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only every few looks asks Ray, since that is a barrier; a node that is known saves no second state."""
    going: dict[str, list[int]] = {}
    notice = SimpleNamespace(preempted_node_to_ranks=going)
    monkeypatch.setattr(train.ray.train, "get_preemption_info", lambda: notice if going else None)
    context = train.RayContext.__new__(train.RayContext)
    context.rank, context._looks, context._leaving = 0, 0, frozenset()

    def asked() -> list[bool]:
        return [context._machine_goes() for _ in range(train.LOOKS_PER_NOTICE)]

    assert not any(asked())
    going["a"] = [0]
    assert asked() == [False] * (train.LOOKS_PER_NOTICE - 1) + [True]
    assert not any(asked())
    going["b"] = [1]
    assert any(asked())
