"""What a training step receives: one batch of single frames (stage 1) or of frame pairs (stage 2).

Images are (B, 3, H, W) float32 RGB in [0, 1]. Landmarks are (B, 68, 2) iBUG points in pixels of the frame; a
frame without a face has NaN there, and the landmark loss leaves it out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Batch:
    """What both batches can do. ``clip_ids`` names where each sample came from."""

    clip_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.clip_ids)

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format) -> Self:
        """The batch on ``device``; images (the 4-d tensors) in ``memory_format``."""

        def move(tensor: Tensor) -> Tensor:
            if tensor.ndim == 4:
                return tensor.to(device, non_blocking=True, memory_format=memory_format)
            return tensor.to(device, non_blocking=True)

        return self._map(move)

    def pin_memory(self) -> Self:
        """The batch in page-locked memory (``DataLoader`` calls this), so that copies to a GPU overlap."""
        return self._map(Tensor.pin_memory)

    def _map(self, function: Any) -> Self:
        fields: dict[str, Any] = vars(self)
        return type(self)(**{k: function(v) if isinstance(v, Tensor) else v for k, v in fields.items()})


@dataclass(frozen=True)
class FrameBatch(_Batch):
    """Single frames for the head stage: ``image`` (B, 3, H, W), ``landmarks`` (B, 68, 2)."""

    image: Tensor
    landmarks: Tensor


@dataclass(frozen=True)
class PairBatch(_Batch):
    """Two frames of one clip each: ``source`` is to be animated into ``driving`` (both (B, 3, H, W))."""

    source: Tensor
    driving: Tensor
    source_landmarks: Tensor
    driving_landmarks: Tensor
