"""From a decoded frame to RGB: upright, with square pixels, cropped and scaled, by libav's filters."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av

FLAGS = "area+accurate_rnd+full_chroma_int"
# libav's numbers of matrices and ranges to the scale filter's names; others are left to the filter.
MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
RANGES = {1: "tv", 2: "pc"}
TICK = Fraction(1, 1000)
HLG, PQ = 18, 16  # libav's numbers of transfer characteristics, and of primaries; numpy is not imported
BT2020, P3 = 9, 12  # for them: most videos do without
TABLE_FORMAT: Any = "rgb48le"
SIDE = 1000  # px of the table of their colours
TURNS = ("transpose", "hflip", "vflip")  # filters, in this order

Picture = Any  # av.VideoFrame


def upright_size(picture: Picture, aspect: Fraction) -> tuple[int, int]:
    """(height, width) px of a picture once it is upright and has square pixels.

    Args:
        aspect: width of a pixel over its height.
    """
    height, width = _square_size(picture, aspect)
    return (width, height) if _turn(picture)[0] else (height, width)


def _square_size(picture: Picture, aspect: Fraction) -> tuple[int, int]:
    """(height, width) px with square pixels; one side is enlarged, so that nothing is lost."""
    if aspect >= 1:
        return picture.height, round(picture.width * aspect)
    return round(picture.height / aspect), picture.width


def _turn(picture: Picture) -> tuple[bool, bool, bool]:
    """Whether rows and columns change places, and left and right, top and bottom then, to be upright.

    The display matrix has x' = a x + c y and y' = b x + d y; it turns by quarters, and may mirror.
    """
    data = picture.side_data.get("DISPLAYMATRIX")
    if data is None:
        return False, False, False
    a, b, _, c, d, *_ = struct.unpack("<9i", bytes(data))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


class Converter:
    """Converts frames of one request; the filters are made anew when a frame is of another kind.

    Args:
        box: left, top, width and height of the crop, in the upright picture; None is all of it.
        size: (height, width) px of the result; None is that of the box or the picture.
    """

    def __init__(self, box: Sequence[int] | None, size: Sequence[int] | None) -> None:
        self._box, self._size = box, size
        self._graph: Any = None
        self._source: Any = None
        self._made_for: object = None
        self._number = 0

    def convert(self, picture: Picture, aspect: Fraction) -> Picture:
        """Convert one frame to rgb24, or to rgba if its format has transparency."""
        shape = (picture.width, picture.height, picture.format.name)
        colours = (picture.colorspace, picture.color_range, picture.color_trc, picture.color_primaries)
        if (shape, colours, aspect, _turn(picture)) != self._made_for:
            self._make(picture, aspect)
            self._made_for = (shape, colours, aspect, _turn(picture))
        self._number += 1
        picture.pts, picture.time_base = self._number, TICK
        self._source.push(picture)
        return self._graph.vpull()

    def _make(self, picture: Picture, aspect: Fraction) -> None:
        self._graph = graph = av.filter.Graph()
        graph.threads = 1
        self._source = graph.add_buffer(
            width=picture.width, height=picture.height, format=_name(picture), time_base=TICK
        )
        nodes = [self._source]
        if aspect != 1:
            height, width = _square_size(picture, aspect)
            nodes.append(graph.add("scale", f"{width}:{height}:flags={FLAGS}"))
        for needed, name in zip(_turn(picture), TURNS, strict=True):
            nodes += [graph.add(name)] if needed else []
        whole = upright_size(picture, aspect)
        if self._box:
            left, top, width, height = self._box
            nodes.append(graph.add("crop", f"{width}:{height}:{left}:{top}:exact=1"))
            whole = (height, width)
        self._size = self._size or whole  # of the first frame, should others be of another size
        height, width = self._size
        nodes.append(graph.add("scale", f"{width}:{height}:flags={FLAGS}{_colours(picture)}"))
        has_alpha = any(component.is_alpha for component in picture.format.components)
        table = None
        if picture.color_trc in (HLG, PQ) or picture.color_primaries in (BT2020, P3):
            table = _add_table(graph)
            # By way of gbrp16: swscale makes wrong colours of 10 bits in rgb48 (full_chroma_int, FFmpeg 8).
            nodes += [graph.add("format", "gbrp16"), graph.add("format", "rgb48"), graph.add("haldclut")]
            table.link_to(nodes[-1], 0, 1)
        nodes += [graph.add("format", "rgba" if has_alpha else "rgb24"), graph.add("buffersink")]
        for before, after in pairwise(nodes):
            before.link_to(after)
        graph.configure()
        if table is not None:
            table.push(_table(picture.color_trc, picture.color_primaries))
            table.push(None)  # there is no other one


def _name(picture: Picture) -> Any:
    return picture.format.name


def _add_table(graph: av.filter.Graph) -> Any:
    return graph.add_buffer(width=SIDE, height=SIDE, format=TABLE_FORMAT, time_base=TICK)


def _table(transfer: int, primaries: int) -> Picture:
    from safa.colour_tables import hald_image

    new_picture: Any = av.VideoFrame.from_ndarray
    picture = new_picture(hald_image(transfer, primaries), format="rgb48le")
    picture.pts, picture.time_base = 0, TICK
    return picture


def _colours(picture: Picture) -> str:
    """What the frame says of its colours, as options of the scale filter."""
    options = ""
    if picture.colorspace in MATRICES:
        options += f":in_color_matrix={MATRICES[picture.colorspace]}"
    if picture.color_range in RANGES:
        options += f":in_range={RANGES[picture.color_range]}"
    return options


class SceneCuts:
    """Says of RGB frames, one after the other, whether a new scene begins, by ffmpeg's scene score.

    Args:
        threshold: least score, 0 to 1, of ffmpeg's ``select`` filter.
        like: a frame of the size and format of all of them.
    """

    def __init__(self, threshold: float, like: Picture) -> None:
        self._graph = av.filter.Graph()
        self._graph.threads = 1
        source = self._graph.add_buffer(
            width=like.width, height=like.height, format=_name(like), time_base=Fraction(1, 1000)
        )
        nodes = [source, self._graph.add("format", "yuv420p")]
        nodes += [self._graph.add("select", f"gt(scene,{threshold})"), self._graph.add("buffersink")]
        for before, after in pairwise(nodes):
            before.link_to(after)
        self._graph.configure()

    def begins(self, picture: Picture) -> bool:
        """Whether a scene begins with this frame."""
        self._graph.vpush(picture)
        try:
            self._graph.vpull()
        except (BlockingIOError, av.EOFError):
            return False
        return True
