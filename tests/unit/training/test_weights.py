"""Every loss weight of a config file reaches the step: 0 switches its term off, twice as much doubles it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from safa import losses
from safa.config.losses import HeadLossWeights, LossWeights
from safa.config.training import TrainConfig

MakeConfig = Callable[..., TrainConfig]
TakeSteps = Callable[..., list[dict[str, float]]]
DEFAULTS = {"head": HeadLossWeights(), "full": LossWeights()}
CASES = [(kind, name) for kind, weights in DEFAULTS.items() for name in type(weights).model_fields]


@pytest.mark.parametrize(("kind", "weight"), CASES)
def test_a_weight_is_read(
    make_config: MakeConfig, take_steps: TakeSteps, kind: str, weight: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "KEYPOINT_DISTANCE", 4.0)  # untrained keypoints lie apart
    # Coefficients start at 0: their penalty has neither a value nor a gradient in the first step.
    steps = 2 if weight == "tdmm_param" else 1
    value = getattr(DEFAULTS[kind], weight) or 1.0  # what the paper has not is off by default
    once, twice, without = (
        take_steps(make_config(kind, {f"stage.losses.weights.{weight}": weight_value}), steps)
        for weight_value in (value, 2 * value, 0.0)
    )
    assert once[-1][weight] > 0
    assert twice[-1][weight] == pytest.approx(2 * once[-1][weight], rel=1e-6)
    assert without[0].keys() == once[0].keys() - {weight}
    for name, loss in without[0].items():
        assert loss == pytest.approx(once[0][name], rel=1e-6), f"{name} depends on the weight of {weight}"
