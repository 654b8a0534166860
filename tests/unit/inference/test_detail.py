"""Enlarged results show the photo's own details, where the model shows the photo."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from safa.config import ModelConfig, parse_settings
from safa.head.assets import HeadAssets
from safa.inference.detail import PhotoDetail
from safa.inference.face_animator import FaceAnimator
from safa.models.safa import Reenactment, Safa
from safa.visualize.images import RgbImage, from_tensor

LARGE = 96  # px
PHOTO: RgbImage = np.random.default_rng(0).integers(0, 255, (LARGE, LARGE, 3)).astype(np.uint8)


@pytest.fixture
def animator(tiny_model: dict[str, Any], toy_head: HeadAssets) -> FaceAnimator:
    torch.manual_seed(0)
    generator = tiny_model["generator"] | {"source_pixels": True}
    model = Safa(parse_settings(tiny_model | {"generator": generator}, ModelConfig, "test"), toy_head)
    assert model.generator.source_share is not None
    nn.init.constant_(model.generator.source_share.bias, 1e4)  # type: ignore[arg-type]
    return FaceAnimator(model, torch.device("cpu"), batch_size=2)


def _still(animator: FaceAnimator, share: float) -> Reenactment:
    """A result in which nothing moves, with so much of the source in it."""
    driving = torch.rand(2, 3, animator.size, animator.size)
    model = animator.model
    result = model.reenact(model.prepare_source(driving[:1]), model.analyse(driving))
    h, w = result.motion.deformation.shape[1:3]
    x, y = (torch.linspace(-1, 1, n) for n in (w, h))
    result.motion.deformation[:] = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    assert result.source_share is not None
    result.source_share.fill_(share)
    return result


@torch.no_grad()
def test_what_does_not_move_is_the_photo_itself(animator: FaceAnimator) -> None:
    result = _still(animator, 1.0)
    photo = torch.from_numpy(PHOTO).permute(2, 0, 1)[None] / 255
    face = F.interpolate(photo, (animator.size, animator.size), mode="area")
    result.prediction[:] = face
    for i in range(2):
        shown = PhotoDetail(face, PHOTO).of(result, i)
        torch.testing.assert_close(shown, photo[0], atol=1e-4, rtol=0)


@torch.no_grad()
def test_what_is_painted_stays_soft(animator: FaceAnimator) -> None:
    result = _still(animator, 0.0)
    shown = PhotoDetail(torch.zeros(1, 3, animator.size, animator.size), PHOTO).of(result, 1)
    soft = F.interpolate(result.prediction[1:], (LARGE, LARGE), mode="bicubic").clamp(0, 1)[0]
    torch.testing.assert_close(shown, soft, atol=1e-6, rtol=0)


@torch.no_grad()
def test_videos_of_a_larger_size_have_them(animator: FaceAnimator) -> None:
    large = list(animator.animate(PHOTO, [PHOTO] * 3, crop=False, size=LARGE))
    pasted = list(animator.animate(PHOTO, [PHOTO] * 3, crop=False, paste_back=True))
    small = list(animator.animate(PHOTO, [PHOTO] * 3, crop=False))
    assert [frame.shape for frame in large] == [(LARGE, LARGE, 3)] * 3
    sides = (animator.size, animator.size)
    for frame, whole, least in zip(large, pasted, small, strict=True):
        soft = F.interpolate(_tensor(least), (LARGE, LARGE), mode="bicubic")
        assert _roughness(frame) > 1.5 * _roughness(from_tensor(soft[0]))
        middle = slice(LARGE // 4, -LARGE // 4)
        assert np.abs(whole[middle, middle].astype(int) - frame[middle, middle]).max() <= 1
        back = F.interpolate(_tensor(frame), sides, mode="area")  # it is the same picture
        assert float((back - _tensor(least)).abs().mean()) < 0.1


def _tensor(image: RgbImage) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


def _roughness(image: RgbImage) -> float:
    """Mean difference of neighbouring pixels."""
    return float(np.abs(np.diff(image.astype(float), axis=1)).mean())
