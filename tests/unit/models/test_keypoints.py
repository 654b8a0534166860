from __future__ import annotations

import torch

from safa.config.model import ModelConfig
from safa.models.keypoints import KeypointDetector


def detector_with_heat(config: ModelConfig, heat: torch.Tensor, jacobian: torch.Tensor) -> KeypointDetector:
    """A detector whose maps are given."""
    detector = KeypointDetector(config)
    detector.maps = lambda image: (heat, jacobian)  # type: ignore[method-assign]
    return detector


def test_a_sharp_peak_is_found_where_it_is(config: ModelConfig) -> None:
    heat = torch.zeros(1, 3, 11, 11)
    heat[0, 0, 0, 0] = heat[0, 1, 5, 5] = heat[0, 2, 2, 10] = 1e3
    jacobian = torch.zeros(1, 12, 11, 11)
    found = detector_with_heat(config, heat, jacobian).detect(torch.empty(0))
    expected = torch.tensor([[[-1.0, -1.0], [0.0, 0.0], [1.0, -0.6]]])
    torch.testing.assert_close(found.value, expected)


def test_the_jacobian_is_read_at_the_peak_row_by_row(config: ModelConfig) -> None:
    heat = torch.zeros(1, 3, 4, 4)
    heat[..., 1, 2] = 1e3
    jacobian = torch.zeros(1, 12, 4, 4)
    jacobian[0, :, 1, 2] = torch.arange(12.0)
    found = detector_with_heat(config, heat, jacobian).detect(torch.empty(0))
    torch.testing.assert_close(found.jacobian[0, 1], torch.tensor([[4.0, 5.0], [6.0, 7.0]]))


def test_a_new_detector_has_identity_jacobians(config: ModelConfig) -> None:
    detector = KeypointDetector(config).eval()
    found = detector.detect(torch.rand(2, 3, 64, 64))
    torch.testing.assert_close(found.jacobian, torch.eye(2).expand(2, 3, 2, 2))
    assert found.value.abs().max() <= 1


def test_batches_in_one_call_do_not_share_statistics(config: ModelConfig) -> None:
    torch.manual_seed(0)
    together, apart = KeypointDetector(config), KeypointDetector(config)
    apart.load_state_dict(together.state_dict())
    dark, light = torch.rand(2, 3, 64, 64) * 0.2, torch.rand(2, 3, 64, 64)
    joint = together(dark, light)
    single = (apart.detect(dark), apart.detect(light))
    for a, b in zip(joint, single, strict=True):
        torch.testing.assert_close(a.value, b.value)
    for (name, a), b in zip(together.state_dict().items(), apart.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


def test_batch_of_four_is_four_batches_of_one(config: ModelConfig) -> None:
    detector = KeypointDetector(config).eval()
    torch.nn.init.normal_(detector.jacobian.weight, std=0.1)
    images = torch.rand(4, 3, 64, 64)
    together = detector.detect(images)
    for i in range(4):
        alone = detector.detect(images[i : i + 1])
        torch.testing.assert_close(together.value[i], alone.value[0])
        torch.testing.assert_close(together.jacobian[i], alone.jacobian[0])
