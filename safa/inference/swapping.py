"""``safa swap``: the source's face in every frame of a film that shows one; others go through untouched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from safa.config.inference import FACE_CLASS_NAMES, FaceClass
from safa.errors import UserError
from safa.inference.animator import AnimatedBatch
from safa.inference.facebox import cut, put_back
from safa.inference.film import Shot
from safa.inference.framing import FramedFilm
from safa.inference.source import Source, grid_of
from safa.pictures.canvas import Picture, from_tensor

# Words for classes that come in pairs.
GROUPS: dict[str, tuple[FaceClass, ...]] = {
    "brows": ("left_brow", "right_brow"),
    "eyes": ("left_eye", "right_eye"),
    "ears": ("left_ear", "right_ear"),
    "lips": ("upper_lip", "lower_lip"),
}

Swapped = Callable[[list[Picture]], Iterator[AnimatedBatch]]  # driving crops to the swapped ones


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
