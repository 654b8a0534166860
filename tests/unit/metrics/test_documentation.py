"""docs/evaluation.md defines every metric that the code has, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from safa.config.inference import Mode, ScorerConfig
from safa.metrics import METRICS, Metric
from safa.metrics.images import MS_SSIM_MIN_SIZE
from safa.metrics.lpips import MIN_SIZE
from safa.metrics.statistics import RESAMPLES, SEED

TEXT = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### [^\n]*\(`(\w+)`\)\n(.*?)(?=^#|\Z)", TEXT, re.MULTILINE | re.DOTALL))


def test_every_metric_has_a_section_and_every_section_a_metric() -> None:
    assert list(SECTIONS) == [metric.key for metric in METRICS]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.key)
def test_a_section_has_name_unit_and_direction(metric: Metric) -> None:
    section = SECTIONS[metric.key]
    assert f"### {metric.label} (`{metric.key}`)" in TEXT
    assert section.startswith(metric.unit)
    assert metric.direction in section


def test_the_constants_are_those_of_the_code() -> None:
    assert f"Below {MS_SSIM_MIN_SIZE} px" in SECTIONS["ms_ssim"]
    assert f"Below {MIN_SIZE} px" in SECTIONS["lpips"]
    assert f"{RESAMPLES} resamples" in TEXT
    assert f"seed {SEED}" in TEXT


def test_modes_and_files_of_networks_are_named() -> None:
    assert all(f"`{mode}`" in TEXT for mode in get_args(Mode))
    assert all(f"scorers.{name}" in TEXT for name in ScorerConfig.model_fields)
