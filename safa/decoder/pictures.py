"""From a decoded frame to RGB: upright, with square pixels, cropped and scaled, by libav's filters."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import av

FLAGS = "area+accurate_rnd+full_chroma_int"
# libav's numbers of matrices and ranges to the scale filter's names; others are left to the filter.
MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
RANGES = {1: "tv", 2: "pc"}
TURNS = {90: "cclock", 270: "clock"}  # counter-clockwise degrees to transpose's directions

Picture = Any  # av.VideoFrame


def upright_size(picture: Picture, aspect: Fraction) -> tuple[int, int]:
    """(height, width) px of a picture once it is upright and has square pixels.

    Args:
        aspect: width of a pixel over its height.
    """
    height, width = _square_size(picture, aspect)
    return (width, height) if _turn(picture) in TURNS else (height, width)


def _square_size(picture: Picture, aspect: Fraction) -> tuple[int, int]:
    """(height, width) px with square pixels; one side is enlarged, so that nothing is lost."""
    if aspect >= 1:
        return picture.height, round(picture.width * aspect)
    return round(picture.height / aspect), picture.width


def _turn(picture: Picture) -> int:
    """Counter-clockwise degrees, 0, 90, 180 or 270, that make a picture upright."""
    return int(round(picture.rotation / 90) * 90 % 360)


class Converter:
    """Converts frames of one request; the filters are made anew when a frame is of another kind.

    Args:
        box: left, top, width and height of the crop, in the upright picture; None is all of it.
        size: (height, width) px of the result; None is that of the box or the picture.
    """

    def __init__(self, box: list[int] | None, size: list[int] | None) -> None:
        self._box, self._size = box, size
        self._graph = av.filter.Graph()
        self._made_for: object = None

    def convert(self, picture: Picture, aspect: Fraction) -> Picture:
        """Convert one frame to rgb24, or to rgba if its format has transparency."""
        key = (picture.width, picture.height, picture.format.name, picture.colorspace, picture.color_range)
        if (key, aspect, _turn(picture)) != self._made_for:
            self._graph, self._made_for = self._make(picture, aspect), (key, aspect, _turn(picture))
        picture.pts = None
        self._graph.vpush(picture)
        return self._graph.vpull()

    def _make(self, picture: Picture, aspect: Fraction) -> av.filter.Graph:
        graph = av.filter.Graph()
        graph.threads = 1
        kind = {"format": picture.format.name, "time_base": Fraction(1, 1000)}
        nodes = [graph.add_buffer(width=picture.width, height=picture.height, **kind)]
        if aspect != 1:
            height, width = _square_size(picture, aspect)
            nodes.append(graph.add("scale", f"{width}:{height}:flags={FLAGS}"))
        if (turn := _turn(picture)) in TURNS:
            nodes.append(graph.add("transpose", TURNS[turn]))
        elif turn:
            nodes += [graph.add("hflip"), graph.add("vflip")]
        size = self._size or upright_size(picture, aspect)
        if self._box:
            left, top, width, height = self._box
            nodes.append(graph.add("crop", f"{width}:{height}:{left}:{top}:exact=1"))
            size = self._size or (height, width)
        nodes.append(graph.add("scale", f"{size[1]}:{size[0]}:flags={FLAGS}{_colours(picture)}"))
        has_alpha = any(component.is_alpha for component in picture.format.components)
        nodes += [graph.add("format", "rgba" if has_alpha else "rgb24"), graph.add("buffersink")]
        for before, after in pairwise(nodes):
            before.link_to(after)
        graph.configure()
        return graph


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
            width=like.width, height=like.height, format=like.format.name, time_base=Fraction(1, 1000)
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
