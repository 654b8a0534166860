"""Details of the photo in results that are larger than what the model makes.

A model with ``generator.source_pixels`` shows moved pixels of the source wherever these fit. Its flow can
move the photo at any size, so an enlarged result gets back what the small one lost: the difference between
the large photo moved and the small one moved, where the model shows it. What the model paints stays as soft
as its own size makes it.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from safa.models.generator import moved_pixels
from safa.models.safa import Reenactment
from safa.visualize.images import RgbImage


class PhotoDetail:
    """The source's crop at the size of the results.

    Args:
        face: (1, 3, S, S) in [0, 1], what the model sees of it.
        photo: (N, N, 3), the same crop at N px.
    """

    def __init__(self, face: Tensor, photo: RgbImage) -> None:
        pixels = torch.from_numpy(np.array(photo)).to(face.device)
        # (N, N, 3) -> (1, 3, N, N), [0, 1]
        self._face, self._photo = face.float(), pixels.permute(2, 0, 1)[None].float() / 255

    @torch.inference_mode()
    def of(self, result: Reenactment, i: int) -> Tensor:
        """Frame ``i`` of a batch of results, enlarged: (3, N, N) in [0, 1]."""
        one = slice(i, i + 1)
        large = self._enlarged(result.prediction[one])
        if result.source_share is not None:
            flow = result.motion.deformation[one]
            detail = moved_pixels(self._photo, flow) - self._enlarged(moved_pixels(self._face, flow))
            large = large + self._enlarged(result.source_share[one]).clamp(0, 1) * detail
        return large[0].clamp(0, 1)  # (1, 3, N, N) -> (3, N, N)

    def _enlarged(self, picture: Tensor) -> Tensor:
        # (1, C, S, S) -> (1, C, N, N)
        size = (self._photo.shape[-2], self._photo.shape[-1])
        return F.interpolate(picture.float(), size=size, mode="bicubic", align_corners=False)
