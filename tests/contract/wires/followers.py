"""Packages of trackers that only listen, for the keys of ``tracking`` of every program that has some."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import MagicMock, patch

from safa.training import trackers
from tests.contract.wires.table import Row, are
from tests.contract.wires.world import World

Send = Callable[[World, Any], None]
MLFLOW = "tracking.mlflow"


def tracking_rows(send: Send) -> Iterator[Row]:
    """The rows of the section.

    Args:
        send: what a program does with its world and settings, numbers for trackers included.
    """
    yield Row(f"{MLFLOW}.uri", "http://a", "http://b", _asked_of_mlflow(send, 0), are("http://a", "http://b"))
    yield Row(
        *(f"{MLFLOW}.experiment", "a", "b", _asked_of_mlflow(send, 1), are("a", "b")),
        {f"{MLFLOW}.uri": "http://a"},
    )
    yield Row("tracking.wandb.project", "a", "b", _project_in_wandb(send), are("a", "b"))


def _listening(send: Send, world: World, config: Any, package: str) -> MagicMock:
    module = MagicMock()
    listens = patch.dict("sys.modules", {package: module, f"{package}.entities": module})
    with listens, patch.object(trackers, "PACKAGES", {package: ()}):
        send(world, config)
    return module


def _asked_of_mlflow(send: Send, number: int) -> Callable[[World, Any], Any]:
    def look(world: World, config: Any) -> Any:
        made = _listening(send, world, config, "mlflow").MlflowClient
        assert made.return_value.log_batch.called
        calls = (made.call_args, made.return_value.get_experiment_by_name.call_args)
        return calls[number].args[0]

    look.__name__ = ("server", "experiment")[number]
    return look


def _project_in_wandb(send: Send) -> Callable[[World, Any], Any]:
    def look(world: World, config: Any) -> Any:
        module = _listening(send, world, config, "wandb")
        assert module.init.return_value.log.called
        return module.init.call_args.kwargs["project"]

    look.__name__ = "project"
    return look
