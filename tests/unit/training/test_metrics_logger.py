"""What a run writes for people: rows, TensorBoard, pictures, and which states were the best."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.summary.writer import event_file_writer

from safa.config import parse_settings
from safa.config.training import TrainConfig
from safa.metrics import L1, PSNR
from safa.training.metrics_logger import MetricsLogger, read_metrics

STRIP = np.full((10, 20, 3), 7, np.uint8)


def _row(loss: float) -> dict[str, object]:
    return {"epoch": 0.5, "losses": {"landmark": loss}, "lr_factor": 1.0, "steps_per_second": 2.0}


def _logger(folder: Path, step: int) -> MetricsLogger:
    settings = {
        **{"runs": str(folder.parent), "name": folder.name, "data": {"clips": "clips", "batch_size": 1}},
        **{"stage": {"kind": "head"}, "schedule": {"unit": "steps", "length": 9}, "checkpoint": {"every": 9}},
    }
    return MetricsLogger(parse_settings(settings, TrainConfig, "test"), step)


def _validated(folder: Path, scores: dict[int, dict[str, float]]) -> MetricsLogger:
    logger = _logger(folder, 0)
    for step, values in scores.items():
        logger.log_validation(step, values, 0.1, STRIP)
    return logger


def _board(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars by name as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_rows_go_to_the_file_and_to_tensorboard(tmp_path: Path) -> None:
    logger = _logger(tmp_path, 0)
    logger.log_training(1, _row(0.5))
    logger.log_validation(1, {"l1": 0.25}, 0.1, STRIP)
    logger.close(finished=True)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["kind"] for row in rows] == ["train", "validate"]
    board = _board(tmp_path)
    assert board["loss/landmark"] == [(1, 0.5)]
    assert board["run/steps_per_second"] == [(1, 2.0)]
    assert board["held_out/l1"] == [(1, 0.25)]
    assert (np.asarray(Image.open(tmp_path / "strip.png")) == STRIP).all()


def test_pictures_are_in_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _validated(tmp_path, {3: {"l1": 0.25}}).close(finished=True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (image,) = events.Images("held_out")
    assert (image.step, image.width, image.height) == (3, 20, 10)


def test_steps_that_will_be_taken_again_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Names of two files of one process and second end in a count, and TensorBoard reads 10 before 9.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))
    first = _logger(tmp_path, 0)
    for step in (1, 2, 3):
        first.log_training(step, _row(float(step)))
    first.log_validation(3, {"l1": 0.1}, 0.1, STRIP)
    first.close(finished=True)
    second = _logger(tmp_path, 2)
    second.log_training(3, _row(30.0))
    second.close(finished=True)
    assert [row["losses"]["landmark"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 30]
    assert _board(tmp_path)["loss/landmark"] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert second.best_steps(L1, 5) == {}


@pytest.mark.parametrize(("metric", "expected"), [(L1, [20, 30]), (PSNR, [10, 40])])
def test_best_steps_by_a_score(tmp_path: Path, metric: object, expected: list[int]) -> None:
    values = {10: 0.4, 20: 0.1, 30: 0.1, 40: 0.2}
    logger = _validated(tmp_path, {step: {"l1": v, "psnr": v} for step, v in values.items()})
    logger.log_validation(50, {}, 0.1, STRIP)  # a score that no frame had
    logger.close(finished=True)
    assert list(logger.best_steps(metric, 2)) == expected  # type: ignore[arg-type]
    resumed = _logger(tmp_path, 50)
    resumed.close(finished=True)
    assert list(resumed.best_steps(metric, 2)) == expected, "a resumed run remembers"  # type: ignore[arg-type]
