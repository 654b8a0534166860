"""Running the model: one source face and a stream of driving frames in, predictions out.

All work on the source is done once. Driving frames pass through in batches and come out in order, so a video
of any length needs the memory of one batch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from safa.batching import batched
from safa.config.inference import TransferConfig
from safa.inference.motion_transfer import Transfer, absolute, make_transfer
from safa.inference.swap_mask import SwapMask
from safa.models.generator import Blend
from safa.models.safa import AnimatedBatch, FaceState, Safa, SourceCache
from safa.visualize.images import RgbImage, from_tensor

log = logging.getLogger(__name__)


class ModelRunner:
    """Runs a model on faces that are cropped already.

    Frames are (S, S, 3) uint8 RGB, where S is the model's image size.

    Args:
        model: is put into eval mode and moved to the device.
        batch_size: driving frames that pass through the model at once; it is halved permanently whenever they
            do not fit into the GPU's memory.

    Attributes:
        model: the networks.
        size: S, px.
    """

    def __init__(self, model: Safa, device: str | torch.device = "cpu", batch_size: int = 8) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.model = model.to(device).eval()
        self.size = model.config.image_size
        self._device, self._batch_size = torch.device(device), batch_size

    @torch.inference_mode()
    def prepare(self, frame: RgbImage) -> SourceCache:
        """Compute all that depends on the source alone."""
        return self.model.prepare_source(self.to_batch([frame]))

    @torch.inference_mode()
    def analyse(self, frame: RgbImage) -> FaceState:
        """Estimate keypoints and 3D head of one frame, e.g. of the reference frame of relative motion."""
        return self.model.analyse(self.to_batch([frame]))

    def reconstruct(self, source: SourceCache, driving: Iterable[RgbImage]) -> Iterator[AnimatedBatch]:
        """Drive a face with frames of its own clip: their states are used as they are."""
        return self._run(source, driving, lambda face: face)

    def animate(
        self,
        source: SourceCache,
        driving: Iterable[RgbImage],
        transfer: TransferConfig,
        reference: RgbImage | None = None,
    ) -> Iterator[AnimatedBatch]:
        """Transfer the driving motion to the source.

        Args:
            reference: the driving frame that relative motion is measured from; None is the first one. Each
                result depends on its own driving frame and the reference alone, so frames need not be
                animated forward and backward from a best frame.
        """
        frames = iter(driving)
        if reference is None:
            first = next(frames, None)
            if first is None:
                return
            reference, frames = first, chain([first], frames)
        to_source = make_transfer(source.face, self.analyse(reference), transfer)
        yield from self._run(source, frames, to_source)

    def swap(
        self, source: SourceCache, driving: Iterable[RgbImage], mask: SwapMask
    ) -> Iterator[AnimatedBatch]:
        """Put the source's face into the driving frames where the mask is 1; motion is absolute."""
        return self._run(source, driving, lambda face: absolute(source.face, face), mask)

    def batches(self, frames: Iterable[RgbImage]) -> Iterator[Tensor]:
        """Yield batches (B, 3, S, S) of at most ``batch_size`` frames in order."""
        iterator = iter(frames)
        while chunk := next(batched(iterator, self._batch_size), None):  # the size may have been halved
            yield self.to_batch(chunk)

    def to_batch(self, frames: list[RgbImage]) -> Tensor:
        """Convert frames to the model's input: (B, 3, S, S) in [0, 1] on the device.

        Raises:
            ValueError: a frame is not (S, S, 3) uint8.
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
        """Run a step; where the GPU's memory is too small, halve the batch size and return None."""
        try:
            return self._step(source, driving, transfer, mask)
        except torch.OutOfMemoryError:
            if len(driving) == 1:
                raise
        # Out here the error, and all the tensors that its traceback holds, are gone.
        self._batch_size = len(driving) // 2
        log.warning("the GPU's memory is full: continuing with batches of %d", self._batch_size)
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
        region = mask.of(driving)
        blend = Blend(self.model.generator.encode(driving), region)
        return AnimatedBatch(driving, face, self.model.reenact(source, transfer(face), blend=blend), region)


def predictions(batches: Iterable[AnimatedBatch]) -> Iterator[RgbImage]:
    """Yield the predictions alone, one by one, e.g. for ``write_video``."""
    for batch in batches:
        yield from map(from_tensor, batch.result.prediction)
