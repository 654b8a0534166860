from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from safa.config.model import ModelConfig
from safa.head.assets import HeadAssets
from safa.models.safa import Safa
from safa.tensor_tree import map_tensors


@pytest.fixture
def model(config: ModelConfig, toy_head: HeadAssets) -> Safa:
    torch.manual_seed(0)
    model = Safa(config, toy_head).eval()
    nn.init.normal_(model.tdmm.encoder.fc.weight, std=0.02)
    nn.init.normal_(model.kp_detector.jacobian.weight, std=0.05)
    return model


@torch.no_grad()
def test_one_source_serves_many_driving_frames(model: Safa, rng: torch.Generator) -> None:
    source, frames = torch.rand(1, 3, 64, 64, generator=rng), torch.rand(4, 3, 64, 64, generator=rng)
    cache = model.prepare_source(source)
    together = model.reenact(cache, model.analyse(frames))
    assert together.prediction.shape == (4, 3, 64, 64)
    for i in range(4):
        alone = model.reenact(cache, model.analyse(frames[i : i + 1]))
        torch.testing.assert_close(together.prediction[i : i + 1], alone.prediction, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            together.render.reenact[i : i + 1], alone.render.reenact, atol=1e-5, rtol=0
        )


@torch.no_grad()
def test_as_many_sources_as_driving_frames(model: Safa, rng: torch.Generator) -> None:
    sources, frames = torch.rand(2, 3, 64, 64, generator=rng), torch.rand(2, 3, 64, 64, generator=rng)
    driving = model.analyse(frames)
    together = model.reenact(model.prepare_source(sources), driving).prediction
    for i in range(2):
        one = map_tensors(lambda tensor, i=i: tensor[i : i + 1], driving)
        alone = model.reenact(model.prepare_source(sources[i : i + 1]), one).prediction
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)


@torch.no_grad()
def test_nothing_changes_its_inputs(model: Safa, rng: torch.Generator) -> None:
    source, frames = torch.rand(1, 3, 64, 64, generator=rng), torch.rand(2, 3, 64, 64, generator=rng)
    given = (model.prepare_source(source), model.analyse(frames), source, frames)
    before = tensors_in(map_tensors(torch.Tensor.clone, given))
    model.reenact(given[0], given[1])
    assert len(before) > 20
    for old, now in zip(before, tensors_in(given), strict=True):
        torch.testing.assert_close(now, old, rtol=0, atol=0)


def tensors_in(tree: object) -> list[Tensor]:
    found: list[Tensor] = []

    def collect(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(collect, tree)
    return found


def test_the_state_dict_is_the_three_released_ones(model: Safa) -> None:
    assert {name.partition(".")[0] for name in model.state_dict()} == {"kp_detector", "tdmm", "generator"}
    head = HeadAssets.from_state_dict(model.tdmm.state_dict())
    Safa(model.config, head).load_state_dict(model.state_dict())
