"""Animate one face with a stream of driving frames.

All work on the source is done once; driving frames pass through in batches and come out in order, so a video
of any length needs the memory of one batch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor

from safa.config.inference import TransferConfig
from safa.inference.motion_transfer import Transfer, absolute, make_transfer
from safa.inference.swap_mask import SwapMask
from safa.models.generator import Blend
from safa.models.safa import AnimatedBatch, FaceState, Safa, SourceCache
from safa.visualize.images import RgbImage, from_tensor

log = logging.getLogger(__name__)


class ModelRunner:
    """A model on a device, ready to animate.

    Frames are (S, S, 3) uint8 RGB with S the model's image size.

    Args:
        model: is put into eval mode and on the device.
        batch_size: driving frames that pass through the model at once; halved, permanently, whenever the GPU's
            memory does not hold so many.
    """

    def __init__(self, model: Safa, device: str | torch.device = "cpu", batch_size: int = 8) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; at least 1 frame has to pass")
        self.model = model.to(device).eval()
        self.size = model.config.image_size
        self._device, self._batch_size = torch.device(device), batch_size

    @torch.inference_mode()
    def prepare(self, frame: RgbImage) -> SourceCache:
        """All that depends on the source alone."""
        return self.model.prepare_source(self.to_batch([frame]))

    @torch.inference_mode()
    def analyse(self, frame: RgbImage) -> FaceState:
        """Keypoints and 3D head of one frame, for instance of the reference of relative motion."""
        return self.model.analyse(self.to_batch([frame]))

    def reconstruct(self, source: SourceCache, driving: Iterable[RgbImage]) -> Iterator[AnimatedBatch]:
        """Drive a face by other frames of the same clip: their states are used as they are."""
        return self._run(source, driving, lambda face: face)

    def animate(
        self,
        source: SourceCache,
        driving: Iterable[RgbImage],
        transfer: TransferConfig,
        reference: RgbImage | None = None,
    ) -> Iterator[AnimatedBatch]:
        """Put the driving motion on the source.

        Args:
            reference: the driving frame that relative motion is measured from; None = the first one.
                Animating forward and backward from a best frame and joining both gives the same frames: each
                depends on its own driving frame and the reference alone.
        """
        frames = iter(driving)
        if reference is None:
            first = next(frames, None)
            if first is None:
                return
            reference, frames = first, chain([first], frames)
        rule = make_transfer(source.face, self.analyse(reference), transfer)
        yield from self._run(source, frames, rule)

    def swap(
        self, source: SourceCache, driving: Iterable[RgbImage], mask: SwapMask
    ) -> Iterator[AnimatedBatch]:
        """Put the source's face into the driving frames, where the mask says so; motion is absolute."""
        return self._run(source, driving, lambda face: absolute(source.face, face), mask)

    def batches(self, frames: Iterable[RgbImage]) -> Iterator[Tensor]:
        """Frames in model input's form, ``batch_size`` at once, in order."""
        iterator = iter(frames)
        while chosen := list(islice(iterator, self._batch_size)):
            yield self.to_batch(chosen)

    def to_batch(self, frames: list[RgbImage]) -> Tensor:
        """Frames to model input: (B, 3, S, S) in [0, 1] on the device.

        Raises:
            ValueError: a frame that is not (S, S, 3) uint8.
        """
        for frame in frames:
            if frame.shape != (self.size, self.size, 3) or frame.dtype != np.uint8:
                raise ValueError(
                    f"frames must be ({self.size}, {self.size}, 3) uint8, not {frame.shape} {frame.dtype}"
                )
        pixels = torch.from_numpy(np.stack(frames)).to(self._device)
        return pixels.permute(0, 3, 1, 2).contiguous().float() / 255

    def _run(
        self,
        source: SourceCache,
        driving: Iterable[RgbImage],
        transfer: Transfer,
        mask: SwapMask | None = None,
    ) -> Iterator[AnimatedBatch]:
        for image in self.batches(driving):
            while len(image):
                batch = self._step_or_less(source, image[: self._batch_size], transfer, mask)
                if batch is not None:
                    yield batch
                    image = image[len(batch.driving) :]

    def _step_or_less(
        self, source: SourceCache, driving: Tensor, transfer: Transfer, mask: SwapMask | None
    ) -> AnimatedBatch | None:
        """The step, or None and smaller batches from here on, where the GPU's memory does not hold it."""
        try:
            return self._step(source, driving, transfer, mask)
        except torch.OutOfMemoryError:
            if len(driving) == 1:
                raise
        # Out here the error, and all the tensors that its traceback holds, are gone.
        self._batch_size = len(driving) // 2
        log.warning("the GPU's memory is full: %d frames at once from here on", self._batch_size)
        torch.cuda.empty_cache()
        return None

    # On the step, not on the generator: the mode would leak to the caller between two batches.
    @torch.inference_mode()
    def _step(
        self, source: SourceCache, driving: Tensor, transfer: Transfer, mask: SwapMask | None
    ) -> AnimatedBatch:
        face = self.model.analyse(driving)
        if mask is None:
            return AnimatedBatch(driving, face, self.model.reenact(source, transfer(face)))
        place = mask.of(driving)
        blend = Blend(self.model.generator.encode(driving), place)
        return AnimatedBatch(driving, face, self.model.reenact(source, transfer(face), blend=blend), place)


def predictions(batches: Iterable[AnimatedBatch]) -> Iterator[RgbImage]:
    """The animated frames alone, one by one, for instance for ``write_video``."""
    for batch in batches:
        yield from map(from_tensor, batch.result.prediction)
