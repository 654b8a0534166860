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


def pictures(size: int, count: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 12, 12, generator=rng)
    wanted = nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return (wanted + 0.08 * torch.randn(wanted.shape, generator=rng)).clamp(0, 1), wanted


def naive_ms_ssim(predicted: Tensor, wanted: Tensor) -> float:
    """One picture, scale by scale, with scipy's filter."""
    x, y = (image.double().numpy() for image in (predicted, wanted))
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
    predicted, wanted = pictures(MS_SSIM_MIN_SIZE)
    scores = ms_ssim(predicted, wanted)
    for i in range(2):
        assert scores[i].item() == pytest.approx(naive_ms_ssim(predicted[i], wanted[i]), abs=1e-6)


def test_ms_ssim_is_that_of_torchmetrics() -> None:
    predicted, wanted = (nn.functional.interpolate(p, (203, 178)) for p in pictures(MS_SSIM_MIN_SIZE))
    predicted = torch.cat([predicted, 1 - wanted[:1]])  # the negative: factors below 0
    wanted = torch.cat([wanted, wanted[:1]])
    theirs = multiscale_structural_similarity_index_measure(
        predicted.double(), wanted.double(), reduction="none", data_range=1.0, normalize="relu"
    )
    assert theirs[0] > 0.5
    assert theirs[2] == 0
    torch.testing.assert_close(ms_ssim(predicted, wanted), theirs, rtol=1e-6, atol=1e-6)


def test_ms_ssim_of_equal_pictures_is_one_and_frames_do_not_meet() -> None:
    predicted, wanted = pictures(MS_SSIM_MIN_SIZE, count=3)
    torch.testing.assert_close(ms_ssim(wanted, wanted), torch.ones(3, dtype=torch.float64))
    alone = torch.cat([ms_ssim(predicted[i : i + 1], wanted[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(ms_ssim(predicted, wanted), alone, rtol=0, atol=1e-12)
    copied = ms_ssim(wanted[:1], wanted)
    torch.testing.assert_close(copied, ms_ssim(wanted[:1].repeat(3, 1, 1, 1), wanted), rtol=0, atol=1e-12)


def test_ms_ssim_refuses_small_pictures() -> None:
    small = torch.rand(1, 3, MS_SSIM_MIN_SIZE - 1, MS_SSIM_MIN_SIZE)
    with pytest.raises(ValueError, match="at least 176 px"):
        ms_ssim(small, small)


def test_flicker_counts_what_changes_otherwise_than_the_truth() -> None:
    grey = torch.full((1, 3, 16, 16), 0.5)
    assert flicker(grey + 0.1, grey + 0.1, grey, grey).item() == pytest.approx(0, abs=1e-7)
    assert flicker(grey + 0.3, grey + 0.3, grey + 0.2, grey + 0.2).item() == pytest.approx(0, abs=1e-7)
    # A constant offset does not flicker; a jump that the truth does not make does.
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
    predicted, wanted = pictures(64, count=3)
    ours = load_lpips(path)(predicted, wanted)
    expected = reference(predicted * 2 - 1, wanted * 2 - 1).flatten().double()
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7)
    assert (ours > 0).all()


def test_lpips_of_equal_pictures_is_nothing_and_one_source_serves_all() -> None:
    network = random_lpips()
    predicted, wanted = pictures(64, count=3)
    assert network(wanted, wanted).tolist() == [0.0] * 3
    torch.testing.assert_close(network(wanted[:1], wanted), network(wanted[:1].repeat(3, 1, 1, 1), wanted))
    alone = torch.cat([network(predicted[i : i + 1], wanted[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(network(predicted, wanted), alone, rtol=1e-5, atol=1e-7)


def test_other_weights_are_no_alexnet(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.rand(2, 2)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth: weights do not fit"):
        load_lpips(tmp_path / "other.pth")
