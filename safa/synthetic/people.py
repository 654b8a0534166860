"""Who the people are: shape of the head, colours, hair, beard; and what changes from video to video.

Colours are (3,) sRGB in [0, 1], as a designer would write them. Every choice comes from the stream that is
handed in, one child stream per subject, so that a change in one part of a person leaves the others alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Colour = NDArray[np.float64]  # (3,) sRGB

_SKIN = np.array(  # from light to dark
    [
        [0.96, 0.83, 0.75],
        [0.93, 0.76, 0.65],
        [0.85, 0.66, 0.52],
        [0.74, 0.55, 0.41],
        [0.58, 0.40, 0.29],
        [0.40, 0.27, 0.20],
    ]
)
_HAIR = {
    "black": (0.09, 0.08, 0.08),
    "dark brown": (0.18, 0.12, 0.09),
    "brown": (0.32, 0.21, 0.13),
    "auburn": (0.42, 0.20, 0.11),
    "red": (0.62, 0.29, 0.13),
    "dark blond": (0.55, 0.42, 0.26),
    "blond": (0.80, 0.65, 0.41),
    "grey": (0.62, 0.61, 0.60),
}
_HAIR_OF_LIGHT_SKIN = {
    "black": 1,
    "dark brown": 3,
    "brown": 4,
    "auburn": 2,
    "red": 1.5,
    "dark blond": 2,
    "blond": 3,
    "grey": 1.5,
}
_HAIR_OF_DARK_SKIN = {"black": 6, "dark brown": 3, "brown": 0.7, "grey": 1}
_IRIS = {
    "brown": (0.33, 0.19, 0.09),
    "hazel": (0.45, 0.35, 0.16),
    "green": (0.33, 0.47, 0.29),
    "blue": (0.28, 0.46, 0.66),
    "grey": (0.45, 0.52, 0.56),
}
_CLOTH = np.array(
    [
        [0.16, 0.20, 0.30],
        [0.10, 0.10, 0.12],
        [0.88, 0.87, 0.84],
        [0.55, 0.12, 0.15],
        [0.17, 0.36, 0.30],
        [0.25, 0.42, 0.66],
        [0.80, 0.62, 0.24],
        [0.62, 0.48, 0.62],
        [0.45, 0.44, 0.43],
        [0.83, 0.55, 0.50],
        [0.42, 0.30, 0.20],
        [0.60, 0.74, 0.76],
    ]
)


@dataclass(frozen=True)
class Hair:
    """Volume is in metres above the scalp; lengths are in head heights below the ears."""

    top: float
    sides: float
    back: float
    length: float  # of the curtain at the sides and back; 0 = hair ends at the ears
    fringe: float  # 0 = bare forehead, 1 = down to the brows
    parting: float  # -1 person's right .. 1 left; where the volume of the top is least
    sweep: float  # slope of the fringe's edge: 0 = level, 1 = lower on the person's left
    receding: float  # 0 = full hairline, 1 = high at the temples
    rounding: float  # how much the hairline comes down to the temples, 1/m
    curl: float  # 0 = smooth, 1 = curly: bumps on the surface
    bun: bool
    colour: Colour
    streaks: float  # strength of lighter and darker strands


@dataclass(frozen=True)
class Complexion:
    """Colours of the face."""

    skin: Colour
    ruddy: float  # redness of cheeks, nose and ears
    freckles: float
    lips: Colour
    iris: Colour
    brows: Colour
    brow_strength: float  # opacity of the brows
    beard: float  # 0 = shaved, 0.35 = stubble, 1 = full
    beard_style: str  # "full", "goatee", "moustache"
    lashes: float  # darkness of the lids' edges


@dataclass(frozen=True)
class Person:
    """One identity: the same in all of its videos."""

    shape: NDArray[np.float32]  # (100,) coefficients of the head model
    complexion: Complexion
    hair: Hair
    face_share: float  # chin to hairline over frame height
    liveliness: float  # amplitude of the motion, see ``motion.head_pose``


@dataclass(frozen=True)
class Outfit:
    """Clothes of one video."""

    style: str  # "crew", "vneck", "collar", "turtleneck"
    colour: Colour
    second: Colour  # of the stripes
    stripes: int  # 0 = plain, else their width in rows of the mesh
    shoulder_width: float  # metres


@dataclass(frozen=True)
class Light:
    """One key light in front and an even ambient light from above and below. Strengths are linear."""

    direction: NDArray[np.float64]  # (3,) unit, from the head to the light; x right, y up, z to the viewer
    key: Colour
    sky: Colour
    ground: Colour


def _pick(rng: Generator, weights: dict[str, float]) -> str:
    p = np.array(list(weights.values()), dtype=np.float64)
    return str(rng.choice(np.array(list(weights)), p=p / p.sum()))


def _vary(rng: Generator, colour: object, amount: float) -> Colour:
    base = np.asarray(colour, dtype=np.float64)
    return np.clip(
        base * (1 + amount * rng.standard_normal()) + 0.4 * amount * rng.standard_normal(3) * base, 0, 1
    )


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """``first`` at share 0, ``second`` at share 1."""
    return first * (1 - share) + second * share


@dataclass(frozen=True)
class _Cut:
    """What makes one haircut differ from another; the rest of ``Hair`` varies with the person."""

    top: float
    sides: float
    back: float
    length: float = 0.0
    fringe: float = 0.0
    receding: float = 0.0
    bun: bool = False


def _long_cut(rng: Generator) -> _Cut:
    bun = bool(rng.random() < 0.25)
    return _Cut(
        top=rng.uniform(0.014, 0.026),
        sides=0.007 if bun else rng.uniform(0.010, 0.020),
        back=rng.uniform(0.010, 0.025),
        length=0.0 if bun else rng.uniform(0.25, 1.0),
        fringe=rng.uniform(0.5, 1.0) if rng.random() < 0.35 else 0.0,
        bun=bun,
    )


def _short_cut(rng: Generator, curl: float) -> _Cut:
    kinds = {"bald": 1.0, "buzz": 1.5, "short": 4.0, "swept": 3.0, "afro": 1.5 if curl == 1 else 0.0}
    kind, receding = _pick(rng, kinds), rng.beta(1.2, 2.0)
    if kind == "bald":
        return _Cut(0.0, 0.0, 0.0)
    if kind == "buzz":
        return _Cut(0.004, 0.003, 0.003, receding=receding)
    if kind == "afro":
        return _Cut(rng.uniform(0.030, 0.050), rng.uniform(0.022, 0.036), 0.034, receding=0.5 * receding)
    if kind == "swept":
        return _Cut(rng.uniform(0.018, 0.030), rng.uniform(0.005, 0.010), 0.012, receding=receding)
    fringe = rng.uniform(0.2, 0.6) if rng.random() < 0.4 else 0.0
    top, sides = rng.uniform(0.010, 0.018), rng.uniform(0.004, 0.008)
    return _Cut(top, sides, 0.008, fringe=fringe, receding=0.0 if fringe else receding)


def _hair(rng: Generator, colour: Colour, long_hair: bool) -> Hair:
    curl = float(rng.choice([0.0, 0.25, 1.0], p=[0.5, 0.3, 0.2]))
    cut = _long_cut(rng) if long_hair else _short_cut(rng, curl)
    return Hair(
        **vars(cut),
        parting=rng.uniform(-0.7, 0.7),
        sweep=rng.uniform(-0.8, 0.8) if rng.random() < 0.6 else 0.0,
        rounding=rng.uniform(5.0, 13.0),
        curl=curl,
        colour=colour,
        streaks=rng.uniform(0.08, 0.3),
    )


def _complexion(rng: Generator, tone: float, hair_colour: Colour, bearded: bool, made_up: bool) -> Complexion:
    steps = np.linspace(0, 1, len(_SKIN))
    skin = _vary(rng, [np.interp(tone, steps, _SKIN[:, c]) for c in range(3)], 0.03)
    iris = (
        "brown" if tone > 0.55 else _pick(rng, {"brown": 3, "hazel": 1.5, "green": 1, "blue": 2.5, "grey": 1})
    )
    natural_lips = np.clip(skin * np.array([0.93, 0.66, 0.66]) + np.array([0.02, 0.0, 0.01]), 0, 1)
    lipstick = np.array([0.72, 0.20, 0.26]) * (1 - 0.3 * tone)
    style = _pick(rng, {"full": 4, "goatee": 1.5, "moustache": 1})
    return Complexion(
        skin=skin,
        ruddy=float(rng.uniform(0.2, 1.0)),
        freckles=float(rng.uniform(0.3, 1.0)) if tone < 0.3 and rng.random() < 0.35 else 0.0,
        lips=mix(natural_lips, lipstick, float(rng.uniform(0.3, 0.9)) if made_up else 0.0),
        iris=_vary(rng, _IRIS[iris], 0.12),
        brows=mix(hair_colour, np.array([0.12, 0.09, 0.08]), 0.45),
        brow_strength=float(rng.uniform(0.6, 0.95)),
        beard=float(rng.choice([0.35, 0.6, 1.0])) if bearded else 0.0,
        beard_style=style,
        lashes=float(rng.uniform(0.5, 0.9)) if made_up else float(rng.uniform(0.15, 0.45)),
    )


def sample_person(rng: Generator, face_share: tuple[float, float], held_out: bool) -> Person:
    """A new identity.

    Args:
        held_out: people of the test partition move at the top of the range that the others cover, so that
            reconstructing them is no easier than reconstructing the people who were trained on.
    """
    shape_rng, tone_rng, hair_rng, face_rng, manner = rng.spawn(5)
    tone = float(tone_rng.random())
    masculine = bool(tone_rng.random() < 0.5)
    palette = _HAIR_OF_LIGHT_SKIN if tone < 0.5 else _HAIR_OF_DARK_SKIN
    hair_colour = _vary(hair_rng, _HAIR[_pick(hair_rng, palette)], 0.08)
    long_hair = bool(hair_rng.random() < (0.1 if masculine else 0.85))
    return Person(
        shape=shape_coefficients(shape_rng),
        complexion=_complexion(
            face_rng,
            tone,
            hair_colour,
            bearded=masculine and bool(face_rng.random() < 0.55),
            made_up=not masculine and bool(face_rng.random() < 0.7),
        ),
        hair=_hair(hair_rng, hair_colour, long_hair),
        face_share=float(manner.uniform(*face_share)),
        liveliness=1.0 if held_out else float(manner.uniform(0.75, 1.0)),
    )


def shape_coefficients(rng: Generator) -> NDArray[np.float32]:
    """Identity coefficients, (100,): unit variance, cut at two so that nobody is a caricature."""
    return np.clip(rng.standard_normal(100), -2, 2).astype(np.float32)


def sample_outfit(rng: Generator) -> Outfit:
    """Clothes for one video."""
    first, second = rng.choice(len(_CLOTH), size=2, replace=False)
    return Outfit(
        style=_pick(rng, {"crew": 3, "vneck": 2, "collar": 3, "turtleneck": 1}),
        colour=_vary(rng, _CLOTH[first], 0.1),
        second=_vary(rng, _CLOTH[second], 0.1),
        stripes=int(rng.integers(1, 3)) if rng.random() < 0.3 else 0,
        shoulder_width=float(rng.uniform(0.36, 0.46)),
    )


def sample_light(rng: Generator) -> Light:
    """Light for one video: from in front and above, to one side, warm or cool."""
    azimuth, height = np.radians(rng.uniform(-60, 60)), np.radians(rng.uniform(10, 50))
    direction = np.array([np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height)])
    warmth = rng.uniform(-1, 1)
    tint = np.array([1 + 0.10 * warmth, 1.0, 1 - 0.12 * warmth])
    strength = rng.uniform(0.55, 0.9)
    return Light(
        direction=direction,
        key=strength * tint,
        sky=(1.02 - 0.75 * strength) * tint[::-1] * rng.uniform(0.9, 1.1),
        ground=(0.80 - 0.60 * strength) * np.array([1.0, 0.95, 0.9]),
    )
