"""Running the model: one source face and a stream of driving frames in, predictions out.

All work on the source is done once. Driving frames pass through in batches and come out in order, so a video
of any length needs the memory of one batch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from safa.batching import batched
from safa.config.inference import TransferConfig
from safa.inference.folding import folded
from safa.inference.motion_transfer import Transfer, absolute, make_transfer
from safa.inference.swap_mask import SwapMask
from safa.memory import keep_freed_memory
from safa.models.generator import Blend
from safa.models.safa import AnimatedBatch, FaceState, Safa, SourceCache
from safa.visualize.images import RgbImage, from_tensor

log = logging.getLogger(__name__)

CACHED_PIXELS = 2**16  # a CPU is quickest with one frame of 256 px, and with several small ones at once
MOST_FRAMES = 8  # on a CPU; more of 64 px gain nothing
BYTES_PER_PIXEL = 4 * 1024  # of a driving frame, that the generator holds at once: 16 maps of 64 channels


class ModelRunner:
    """Runs a model on faces that are cropped already.

    Frames are (S, S, 3) uint8 RGB, where S is the model's image size.

    Args:
        model: is left as it is; a copy is rewritten for inference.
        batch_size: driving frames that pass through the model at once; None chooses by the device. It is
            halved permanently whenever they do not fit into the GPU's memory.
        precision: of convolutions; positions and renders keep float32.

    Attributes:
        model: the copy, on the device.
        device: that it runs on.
        size: S, px.
        batch_size: driving frames that pass through the model at once, at first.
    """

    def __init__(
        self,
        model: Safa,
        device: str | torch.device = "cpu",
        batch_size: int | None = None,
        precision: torch.dtype = torch.float32,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        keep_freed_memory()
        self.device, self._precision = torch.device(device), precision
        self.size = model.config.image_size
        self.batch_size = batch_size or default_batch_size(self.device, self.size)
        self._batch_size = self.batch_size
        with torch.no_grad():
            self.model = folded(model, self.device, precision)

    def autocast(self) -> torch.autocast:
        """Within this context convolutions run in the chosen precision."""
        half = self._precision != torch.float32
        return torch.autocast(self.device.type, dtype=self._precision if half else None, enabled=half)

    @torch.inference_mode()
    def prepare(self, frame: RgbImage) -> SourceCache:
        """Compute all that depends on the source alone."""
        with self.autocast():
            return self.model.prepare_source(self.to_batch([frame]))

    @torch.inference_mode()
    def analyse(self, frame: RgbImage) -> FaceState:
        """Estimate keypoints and 3D head of one frame, e.g. of the reference frame of relative motion."""
        with self.autocast():
            return self.model.analyse(self.to_batch([frame]))

    def reconstruct(self, source: SourceCache, driving: Iterable[RgbImage]) -> Iterator[AnimatedBatch]:
        """Drive a face with frames of its own clip: their states are used as they are."""
        return self._run(source, driving, _unchanged)

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
        self,
        source: SourceCache,
        driving: Iterable[RgbImage],
        mask: SwapMask,
        *,
        source_shape: bool = False,
    ) -> Iterator[AnimatedBatch]:
        """Put the source's face into the driving frames where the mask is 1; motion is absolute.

        Args:
            source_shape: draw the source's head shape instead of each driving frame's own.
        """
        transfer = (lambda face: absolute(source.face, face)) if source_shape else _unchanged
        return self._run(source, driving, transfer, mask)

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
        pixels = torch.from_numpy(np.stack(frames))
        if self.device.type == "cuda":  # from pinned memory the copy does not hold up the host
            pixels = pixels.pin_memory().to(self.device, non_blocking=True)
        # (B, S, S, 3) -> (B, 3, S, S), still NHWC in memory
        return pixels.permute(0, 3, 1, 2).float() / 255

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
        with self.autocast():
            face = self.model.analyse(driving)
            if mask is None:
                return AnimatedBatch(driving, face, self.model.reenact(source, transfer(face)))
            region = mask.of(driving)
            blend = Blend(driving, self.model.generator.encode(driving), region)
            result = self.model.reenact(source, transfer(face), blend=blend)
            return AnimatedBatch(driving, face, result, region)


def default_batch_size(device: torch.device, size: int) -> int:
    """Frames at once: on a CPU those whose maps its caches hold; on a GPU as many as its memory has room for.

    Args:
        size: px, side of a frame.
    """
    if device.type == "cpu":
        return min(MOST_FRAMES, max(1, CACHED_PIXELS // size**2))
    free, _ = torch.cuda.mem_get_info(device)
    room = free / 2 / (BYTES_PER_PIXEL * size**2)
    return int(2 ** min(6, max(0, math.floor(math.log2(max(room, 1))))))


def predictions(batches: Iterable[AnimatedBatch]) -> Iterator[RgbImage]:
    """Yield the predictions alone, one by one, e.g. for ``write_video``."""
    for batch in batches:
        yield from map(from_tensor, batch.result.prediction)


def _unchanged(driving: FaceState) -> FaceState:
    """The driving state itself: its keypoints, its motion and its head's shape."""
    return driving
