"""Multi-scale SSIM, flicker and LPIPS against slow twins and hand-made cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from safa.errors import UserError
from safa.metrics.images import MS_SSIM_MIN_SIZE, flicker, ms_ssim
from safa.metrics.lpips import Lpips, load_lpips

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def image_pair(size: int, count: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 12, 12, generator=rng)
    target = nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return (target + 0.08 * torch.randn(target.shape, generator=rng)).clamp(0, 1), target


def naive_ms_ssim(prediction: Tensor, target: Tensor) -> float:
    """One image, scale by scale, with scipy's filter."""
    x, y = (image.double().numpy() for image in (prediction, target))
    factors = []
    for scale in range(5):

        def blurred(image: np.ndarray) -> np.ndarray:
            return np.stack([gaussian_filter(channel, 1.5, mode="mirror", truncate=3.5) for channel in image])

        mean_x, mean_y = blurred(x), blurred(y)
        variances = blurred(x * x) - mean_x**2 + blurred(y * y) - mean_y**2
        contrast = (2 * (blurred(x * y) - mean_x * mean_y) + 0.03**2) / (variances + 0.03**2)
        luminance = (2 * mean_x * mean_y + 0.01**2) / (mean_x**2 + mean_y**2 + 0.01**2)
        factors.append((contrast * luminance).mean() if scale == 4 else contrast[:, 5:-5, 5:-5].mean())
        x, y = (
            (image.reshape(3, len(image[0]) // 2, 2, -1, 2).mean((2, 4)) for image in (x, y))
            if scale < 4
            else (x, y)
        )
    return float(np.prod([max(f, 0) ** w for f, w in zip(factors, WEIGHTS, strict=True)]))


def test_ms_ssim_against_a_twin() -> None:
    prediction, target = image_pair(MS_SSIM_MIN_SIZE)
    scores = ms_ssim(prediction, target)
    for i in range(2):
        assert scores[i].item() == pytest.approx(naive_ms_ssim(prediction[i], target[i]), abs=1e-6)


def test_ms_ssim_is_that_of_torchmetrics() -> None:
    prediction, target = (nn.functional.interpolate(p, (203, 178)) for p in image_pair(MS_SSIM_MIN_SIZE))
    prediction = torch.cat([prediction, 1 - target[:1]])  # the negative: factors below 0
    target = torch.cat([target, target[:1]])
    theirs = multiscale_structural_similarity_index_measure(
        prediction.double(), target.double(), reduction="none", data_range=1.0, normalize="relu"
    )
    assert theirs[0] > 0.5
    assert theirs[2] == 0
    torch.testing.assert_close(ms_ssim(prediction, target), theirs, rtol=1e-6, atol=1e-6)


def test_ms_ssim_of_equal_images_is_one_and_frames_do_not_meet() -> None:
    prediction, target = image_pair(MS_SSIM_MIN_SIZE, count=3)
    torch.testing.assert_close(ms_ssim(target, target), torch.ones(3, dtype=torch.float64))
    alone = torch.cat([ms_ssim(prediction[i : i + 1], target[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(ms_ssim(prediction, target), alone, rtol=0, atol=1e-12)
    copied = ms_ssim(target[:1], target)
    torch.testing.assert_close(copied, ms_ssim(target[:1].repeat(3, 1, 1, 1), target), rtol=0, atol=1e-12)


def test_ms_ssim_refuses_small_images() -> None:
    small = torch.rand(1, 3, MS_SSIM_MIN_SIZE - 1, MS_SSIM_MIN_SIZE)
    with pytest.raises(ValueError, match="at least 176 px"):
        ms_ssim(small, small)


def test_flicker_counts_what_changes_otherwise_than_the_target() -> None:
    grey = torch.full((1, 3, 16, 16), 0.5)
    assert flicker(grey + 0.1, grey + 0.1, grey, grey).item() == pytest.approx(0, abs=1e-7)
    assert flicker(grey + 0.3, grey + 0.3, grey + 0.2, grey + 0.2).item() == pytest.approx(0, abs=1e-7)
    # A constant offset does not flicker; a jump that the target does not make does.
    assert flicker(grey + 0.1, grey, grey + 0.1, grey).item() == pytest.approx(0, abs=1e-7)
    assert flicker(grey + 0.1, grey, grey - 0.1, grey).item() == pytest.approx(0.2, abs=1e-7)


def random_lpips(seed: int = 0) -> Lpips:
    torch.manual_seed(seed)
    network = Lpips().eval().requires_grad_(False)
    for weight in network.weights:
        weight.data.uniform_(0, 1)
    return network


def test_lpips_agrees_with_torchmetrics(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same AlexNet in their network; their file of channel weights is read by both."""
    from torchmetrics.functional.image import lpips as theirs

    network = random_lpips()
    path = tmp_path / "alexnet.pth"
    classifier = {"classifier.1.weight": torch.rand(2, 2)}  # in the published file, not needed
    torch.save({f"features.{k}": v for k, v in network.features.state_dict().items()} | classifier, path)
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda *_args, **_named: network.features)
    reference = theirs._LPIPS(pretrained=True, net="alex").eval()
    prediction, target = image_pair(64, count=3)
    ours = load_lpips(path)(prediction, target)
    expected = reference(prediction * 2 - 1, target * 2 - 1).flatten().double()
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7)
    assert (ours > 0).all()


def test_lpips_of_equal_images_is_nothing_and_one_source_serves_all() -> None:
    network = random_lpips()
    prediction, target = image_pair(64, count=3)
    assert network(target, target).tolist() == [0.0] * 3
    torch.testing.assert_close(network(target[:1], target), network(target[:1].repeat(3, 1, 1, 1), target))
    alone = torch.cat([network(prediction[i : i + 1], target[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(network(prediction, target), alone, rtol=1e-5, atol=1e-7)


def test_other_weights_are_no_alexnet(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.rand(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth: weights do not fit"):
        load_lpips(tmp_path / "other.pth")
