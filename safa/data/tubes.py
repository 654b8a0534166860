"""Faces of frame after frame to tubes: stretches of time in which one face stays in one place.

A tube becomes a clip that is cut with one fixed box, so a face belongs to it only while it overlaps the
tube's first box. All here is arithmetic on boxes; memory does not grow with the length of the video.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from safa.config.preprocess import TubeConfig
from safa.data.crop import Box
from safa.data.faces import Face, iou
from safa.data.schema import Code, Refused

BORDER = 1.0  # px; a face this near to the frame's edge may go on outside


@dataclass(frozen=True, slots=True)
class Tube:
    """One face over the frames ``start`` to ``end`` (exclusive).

    Attributes:
        first: where it was at the start.
        last: where it was seen last.
        union: the box around all its places; its score is the mean.
        n_faces: frames in which it was seen.
    """

    start: int
    end: int
    first: Face
    last: Face
    union: Face
    n_faces: int

    @property
    def length(self) -> int:
        return self.end - self.start

    def grown(self, number: int, face: Face) -> Tube:
        """With the face of one more frame."""
        union = self.union
        score = (union.score * self.n_faces + face.score) / (self.n_faces + 1)
        around = Face(
            min(union.left, face.left),
            min(union.top, face.top),
            max(union.right, face.right),
            max(union.bottom, face.bottom),
            score,
        )
        return replace(self, end=number + 1, last=face, union=around, n_faces=self.n_faces + 1)


def follow(frames: Iterable[Sequence[Face]], config: TubeConfig) -> Iterator[Tube]:
    """Tubes in the order in which they end.

    In each frame every open tube takes, of the faces that overlap its first box enough, the one that overlaps
    its last place most; the pair that overlaps most is settled first. A face that no tube takes starts one.

    Args:
        frames: the faces of frame 0, 1, ...
    """
    tubes: list[Tube] = []
    for number, faces in enumerate(frames):
        full = [tube for tube in tubes if tube.length >= config.max_frames]
        lost = [tube for tube in tubes if number - tube.end > config.gap and tube not in full]
        yield from full + lost
        tubes = [tube for tube in tubes if tube not in full and tube not in lost]
        pairs = _matched(tubes, faces, config.min_iou)
        tubes = [
            tube.grown(number, faces[pairs[index]]) if index in pairs else tube
            for index, tube in enumerate(tubes)
        ]
        taken = set(pairs.values())
        fresh = [face for index, face in enumerate(faces) if index not in taken]
        tubes += [Tube(number, number + 1, face, face, face, 1) for face in fresh]
    yield from tubes


def _matched(tubes: Sequence[Tube], faces: Sequence[Face], min_iou: float) -> dict[int, int]:
    """Index of a tube to index of its face."""
    scored = [
        (iou(tube.last, face), t, f)
        for t, tube in enumerate(tubes)
        for f, face in enumerate(faces)
        if iou(tube.first, face) >= min_iou
    ]
    pairs: dict[int, int] = {}
    for _, t, f in sorted(scored, key=lambda entry: -entry[0]):
        if t not in pairs and f not in pairs.values():
            pairs[t] = f
    return pairs


def clip_box(tube: Tube, frame: tuple[int, int], config: TubeConfig) -> Box:
    """What is cut out for a tube: the square around all its faces, increased at each side, inside the frame.

    Args:
        frame: (height, width) px, in which the faces were found.

    Raises:
        Refused: ``too_short``, ``border`` or ``too_small``.
    """
    height, width = frame
    union = tube.union
    if tube.length < config.min_frames:
        raise Refused(Code.TOO_SHORT, f"{tube.length} frames, needed are {config.min_frames}")
    inside = (
        union.left > BORDER
        and union.top > BORDER
        and union.right < width - BORDER
        and union.bottom < height - BORDER
    )
    if config.drop_border and not inside:
        raise Refused(Code.BORDER, "the face touches the frame's edge")
    side = max(union.right - union.left, union.bottom - union.top) * (1 + 2 * config.increase)
    x, y = (union.left + union.right) / 2, (union.top + union.bottom) / 2
    square = Box(round(x - side / 2), round(y - side / 2), round(x + side / 2), round(y + side / 2))
    box = square.clipped(width, height)
    if box is None or min(box.width, box.height) < config.min_size:
        size = f"{box.width}x{box.height}" if box else "outside the frame"
        raise Refused(Code.TOO_SMALL, f"the box is {size} px, needed are {config.min_size}")
    return box
