from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable

import numpy as np
import pytest

from safa.metrics import METRICS
from safa.report.content import ReportContent, headlines, metrics_json, tracked_numbers

Make = Callable[..., ReportContent]


def test_headlines_are_means_over_clips_beside_their_baselines(content: Make) -> None:
    psnr = headlines(content(1.0, 4.0).results)[0]
    assert (psnr.metric.key, psnr.value, psnr.copy_source) == ("psnr", 22.5, 20.0)


def test_a_gain_is_positive_where_the_model_is_better(content: Make) -> None:
    gains = {line.metric.key: line.gain for line in headlines(content(1.0).results)}
    assert gains["psnr"] == 1.0
    assert gains["l1"] == pytest.approx(0.02)
    assert gains["landmark_nme"] == pytest.approx(0.15)


def test_a_gain_of_expression_is_better_the_nearer_it_is_to_one() -> None:
    metric = next(metric for metric in METRICS if metric.key == "mouth_opening_gain")
    assert metric.difference(np.array([0.8, 1.2, 3.0]), np.zeros(3)) == pytest.approx([-0.8, -0.8, 1.0])
    assert [metric.is_gain(difference) for difference in (-0.8, 1.0)] == [True, False]


def test_clips_without_a_number_are_no_part_of_its_mean(content: Make) -> None:
    report = content(1.0, 3.0)
    faceless = dataclasses.replace(
        report.results[0], scores=report.results[0].scores | {"landmark_nme": math.nan}
    )
    lines = headlines((faceless, report.results[1]))
    assert next(line.value for line in lines if line.metric.key == "landmark_nme") == 0.05
    assert "landmark_nme" not in {line.metric.key for line in headlines([faceless])}


def test_numbers_for_programs(content: Make) -> None:
    numbers = metrics_json(content(1.0, 4.0))
    assert numbers["psnr"] == 22.5
    assert numbers["psnr_copy_source"] == 20.0
    for key in ("ssim", "l1", "landmark_nme"):
        assert {key, f"{key}_copy_source"} <= set(numbers)
    assert numbers["counts"] == {"in": 4, "ok": 3, "quarantined": 1}
    assert numbers["frames"] == 3 * 96
    assert numbers["seconds"] == {"train": 75.0, "evaluate": 12.3}
    json.dumps(numbers, allow_nan=False)


def test_numbers_have_intervals_over_clips(content: Make) -> None:
    gains = [0.5, 1.0, 1.5, 2.0, 4.0]
    numbers = metrics_json(content(*gains))
    low, high = numbers["intervals"]["psnr"]
    assert 20.5 < low < numbers["psnr"] < high < 24
    assert numbers["intervals"]["psnr_copy_source"] == [20.0, 20.0]
    assert "intervals" not in metrics_json(content(1.0))  # of one clip there is none


def test_what_was_not_measured_says_why(content: Make) -> None:
    report = dataclasses.replace(content(1.0), skipped={"lpips": "skipped: weights missing (scorers.lpips)"})
    assert metrics_json(report)["skipped"] == {"lpips": "skipped: weights missing (scorers.lpips)"}


def test_fid_is_one_number_of_all_clips(content: Make) -> None:
    numbers = metrics_json(dataclasses.replace(content(1.0, 2.0), fid=(12.5, 40.0)))
    assert (numbers["fid"], numbers["fid_copy_source"]) == (12.5, 40.0)
    assert "fid" not in numbers["intervals"]


def test_scores_of_other_modes_stand_under_their_name(content: Make) -> None:
    report = content(1.0)
    animated = dataclasses.replace(report.results[-1], scores={"csim": 0.75, "csim_copy_source": 1.0})
    numbers = metrics_json(dataclasses.replace(report, results=(*report.results[:-1], animated)))
    assert numbers["animation"] == {"csim": 0.75, "csim_copy_source": 1.0}
    assert numbers["csim"] == 0.5  # of the reconstruction


def test_followers_get_each_number_under_a_name_of_its_own(content: Make) -> None:
    report = content(0.5, 1.0, 1.5)
    animated = dataclasses.replace(report.results[-1], scores={"csim": 0.75})
    numbers = metrics_json(dataclasses.replace(report, results=(*report.results[:-1], animated)))
    named = tracked_numbers(numbers)
    assert named["reconstruction/psnr"] == numbers["psnr"]
    assert named["reconstruction/psnr_low"] == numbers["intervals"]["psnr"][0]
    assert named["reconstruction/psnr_high"] == numbers["intervals"]["psnr"][1]
    assert named["animation/csim"] == 0.75
    assert named["clips/quarantined"] == 1
    assert named["seconds/train"] == 75.0
    assert all(isinstance(value, float) for value in named.values())


def test_without_reconstructions_there_are_no_headlines(content: Make) -> None:
    assert headlines(content().results) == ()
    assert set(metrics_json(content())) == {"counts", "frames", "model_step", "seconds", "skipped"}
