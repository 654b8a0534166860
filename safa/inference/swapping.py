"""``safa swap``: the source's face in every frame of a film that shows one; others go through untouched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from safa.config.inference import FACE_CLASS_NAMES, FaceClass
from safa.errors import UserError
from safa.geometry.grids import warp
from safa.inference.animator import AnimatedBatch
from safa.inference.facebox import cut, put_back
from safa.inference.film import Shot
from safa.inference.framing import FramedFilm
from safa.inference.source import Source, grid_of
from safa.models.tdmm import Tdmm
from safa.pictures.canvas import Picture, from_tensor

# Words for classes that come in pairs.
GROUPS: dict[str, tuple[FaceClass, ...]] = {
    "brows": ("left_brow", "right_brow"),
    "eyes": ("left_eye", "right_eye"),
    "ears": ("left_ear", "right_ear"),
    "lips": ("upper_lip", "lower_lip"),
}
HARD = 0.5

Swapped = Callable[[list[Picture]], Iterator[AnimatedBatch]]  # driving crops to the swapped ones


@dataclass(frozen=True)
class HeadOutline:
    """The part of the fitted 3D head that is face, eyes included: a mask that needs no weights.

    Attributes:
        hard: 0 or 1 instead of soft edges.
    """

    tdmm: Tdmm
    hard: bool = False

    @torch.inference_mode()
    def of(self, image: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [0, 1] to masks (B, 1, S, S)."""
        side = self.tdmm.render_side(self.tdmm.geometry(self.tdmm.estimate(image).code))
        texels = self.tdmm.uv_face_eye_mask.expand(len(image), -1, -1, -1)
        mask = warp(texels, side.uv.permute(0, 2, 3, 1)) * side.alpha
        return (mask >= HARD).to(mask.dtype) if self.hard else mask


def parse_classes(text: str) -> tuple[FaceClass, ...]:
    """``skin,nose,eyes`` or upstream's ``1,10,4,5`` to classes of the face parser.

    Raises:
        UserError: a class that the parser doesn't know.
    """
    chosen: list[FaceClass] = []
    for word in (word.strip() for word in text.split(",")):
        if word in GROUPS:
            chosen += GROUPS[word]
        elif word.isdecimal() and int(word) < len(FACE_CLASS_NAMES):
            chosen.append(FACE_CLASS_NAMES[int(word)])
        elif word in FACE_CLASS_NAMES:
            chosen.append(FACE_CLASS_NAMES[FACE_CLASS_NAMES.index(word)])
        else:
            known = ", ".join([*GROUPS, *FACE_CLASS_NAMES])
            raise UserError(f"no class {word!r}", "--classes", f"Known are {known}.")
    return tuple(dict.fromkeys(chosen))


def swapped_shots(
    subject: Source, framed: FramedFilm, swapped: Swapped, size: int, batch_size: int
) -> Iterator[Shot]:
    """All frames of a film in order, ``batch_size`` at once; those without a face as they are."""
    frames = framed.open()
    while chunk := list(islice(frames, batch_size)):
        crops = [cut(item.frame, item.square, size) for item in chunk if item.seen]
        done = ((batch, i) for batch in swapped(crops) for i in range(len(batch.driving)))
        for item in chunk:
            if not item.seen:
                yield Shot(item.frame, item.frame, False, None)
                continue
            batch, i = next(done)
            picture = put_back(item.frame, item.square, from_tensor(batch.result.prediction[i]))
            yield Shot(picture, item.frame, True, grid_of(subject, batch, i))
