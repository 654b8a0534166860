from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from safa.metrics import clip_score, l1, landmark_nme, overall_score, psnr, ssim


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    target = torch.rand(4, 3, 32, 40, generator=rng)
    prediction = (target + 0.1 * torch.randn(4, 3, 32, 40, generator=rng)).clamp(0, 1)
    return prediction, target


def as_array(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).double().numpy()


def test_l1_of_a_known_difference() -> None:
    black, grey = torch.zeros(1, 3, 16, 16), torch.full((2, 3, 16, 16), 0.25)
    grey[1, 0] = 1.0  # one channel of three
    torch.testing.assert_close(l1(black, grey), torch.tensor([0.25, 0.5], dtype=torch.float64))


def test_psnr_of_a_known_difference() -> None:
    target = torch.zeros(2, 3, 16, 16)
    prediction = torch.stack([torch.full((3, 16, 16), 0.1), torch.ones(3, 16, 16)])
    torch.testing.assert_close(psnr(prediction, target), torch.tensor([20.0, 0.0], dtype=torch.float64))


def test_psnr_agrees_with_scikit_image(images: tuple[Tensor, Tensor]) -> None:
    ours = psnr(*images)
    for i, (prediction, target) in enumerate(zip(*images, strict=True)):
        theirs = peak_signal_noise_ratio(as_array(target), as_array(prediction), data_range=1.0)
        assert ours[i].item() == pytest.approx(theirs, abs=1e-9)


def test_ssim_agrees_with_scikit_image(images: tuple[Tensor, Tensor]) -> None:
    ours = ssim(*images)
    for i, (prediction, target) in enumerate(zip(*images, strict=True)):
        theirs = structural_similarity(
            as_array(target),
            as_array(prediction),
            data_range=1.0,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert ours[i].item() == pytest.approx(theirs, abs=1e-6)


def test_equal_images_score_best(images: tuple[Tensor, Tensor]) -> None:
    _, image = images
    assert l1(image, image).tolist() == [0.0] * 4
    assert psnr(image, image).tolist() == [100.0] * 4
    torch.testing.assert_close(ssim(image, image), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("score", [l1, psnr, ssim])
def test_frames_do_not_meet(score: object, images: tuple[Tensor, Tensor]) -> None:
    """One frame's score is the same alone and in a batch, and one source serves all frames."""
    assert callable(score)
    prediction, target = images
    together = score(prediction, target)
    alone = torch.cat([score(prediction[i : i + 1], target[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    copied = score(target[:1], target)
    torch.testing.assert_close(copied, score(target[:1].repeat(4, 1, 1, 1), target), rtol=0, atol=1e-12)


def test_images_are_checked() -> None:
    image = torch.rand(2, 3, 16, 16)
    with pytest.raises(ValueError, match="sizes differ"):
        l1(image, image[..., :8])
    with pytest.raises(ValueError, match="numbers of frames differ"):
        psnr(image, image.repeat(2, 1, 1, 1))
    with pytest.raises(ValueError, match=r"\(F, 3, H, W\) float"):
        ssim((image * 255).byte(), image)
    with pytest.raises(ValueError, match="at least 11 px"):
        ssim(image[..., :8], image[..., :8])


def face() -> Tensor:
    points = torch.rand(1, 68, 2, generator=torch.Generator().manual_seed(1)) * 100
    points[0, 36], points[0, 45] = torch.tensor([20.0, 40.0]), torch.tensor([80.0, 40.0])  # 60 px apart
    return points


def test_nme_of_a_shifted_face_is_the_shift_over_the_eye_distance() -> None:
    target = face()
    shifted = target + torch.tensor([3.0, 4.0])  # 5 px
    torch.testing.assert_close(landmark_nme(shifted, target), torch.tensor([5 / 60], dtype=torch.float64))


def test_nme_does_not_depend_on_the_unit_and_the_frame() -> None:
    target = face()
    prediction = target + torch.randn(1, 68, 2, generator=torch.Generator().manual_seed(2))
    moved = landmark_nme(prediction * 3 + 7, target * 3 + 7)
    torch.testing.assert_close(moved, landmark_nme(prediction, target), rtol=1e-5, atol=0)


def test_nme_of_a_frame_without_a_face_is_nan() -> None:
    target = face().repeat(2, 1, 1)
    target[1] = math.nan
    scores = landmark_nme(face(), target)
    assert scores[0] == 0
    assert math.isnan(scores[1])


def test_clips_weigh_alike_whatever_their_length() -> None:
    long, short = np.full(90, 1.0), np.array([3.0, math.nan, 5.0])
    clips = np.array([clip_score(long), clip_score(short)])
    assert clips.tolist() == [1.0, 4.0]
    assert overall_score(clips) == 2.5


def test_nothing_known_is_nan() -> None:
    assert math.isnan(clip_score(np.array([math.nan])))
    assert math.isnan(overall_score(np.array([])))
    assert overall_score(np.array([math.nan, 2.0])) == 2.0
