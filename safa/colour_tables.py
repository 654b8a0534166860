"""From HLG, PQ and wide gamuts to BT.709: what standard dynamic range holds comes out as it would look there.

Display light is computed by the transfer's own definition (ITU-R BT.2100), for HLG on a display of 1000 cd/m2
whose gamma of 1.2 is that of each channel, as in ffmpeg's zscale (BT.2100 takes it of the luminance, which
shows saturated colours a little darker). White is at 203 cd/m2 (BT.2408); light up to ``KNEE`` of that is
kept, what is brighter is compressed into the rest. BT.709 is shown with a gamma of 2.4 (BT.1886). The whole
is a table of three dimensions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HLG, PQ = 18, 16  # numbers of transfer characteristics (ITU-T H.273), as in libav
BT2020, P3 = 9, 12  # numbers of primaries
LEVEL = 10  # a Hald image of 1000 x 1000 px is a table of 100 x 100 x 100 colours

WHITE, HLG_PEAK, PQ_PEAK = 203.0, 1000.0, 10_000.0  # cd/m2
KNEE = 0.95  # of white; pure white loses 3 levels of 255 to the room above it
GAMMA, HLG_GAMMA = 2.4, 1.2
# Linear light of other primaries to BT.709's, from their chromaticities (BT.2020: ITU-R BT.2087).
FROM_2020 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
FROM_P3 = np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]])

Colours = NDArray[np.float64]


def hald_image(transfer: int, primaries: int) -> NDArray[np.uint16]:
    """The table for a transfer and primaries as a Hald image (1000, 1000, 3) of 16-bit RGB."""
    steps = np.linspace(0, 1, LEVEL**2)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")
    colours = to_bt709(np.stack([red, green, blue], axis=-1), transfer, primaries)
    image: NDArray[np.uint16] = np.rint(colours * 65535).astype(np.uint16)
    return image.reshape(LEVEL**3, LEVEL**3, 3)  # (b, g, r, 3) -> (rows, columns, 3)


def to_bt709(signal: Colours, transfer: int, primaries: int) -> Colours:
    """Convert values (..., 3) of R'G'B' in [0, 1] to R'G'B' of BT.709 in [0, 1].

    Args:
        transfer: ``HLG`` or ``PQ``; any other is taken for that of BT.709.
        primaries: ``P3``; any other are taken for those of BT.2020.
    """
    light = _light(signal, transfer)
    shown = np.maximum(light @ (FROM_P3 if primaries == P3 else FROM_2020).T, 0)
    brightest = np.maximum(shown.max(axis=-1, keepdims=True), 1e-9)
    if transfer in (HLG, PQ):
        shown = shown * (_compressed(brightest) / brightest)
    result: Colours = np.clip(shown, 0, 1) ** (1 / GAMMA)
    return result


def _light(signal: Colours, transfer: int) -> Colours:
    """Light (..., 3) in units of white."""
    if transfer == HLG:
        return _hlg_light(signal) / WHITE
    return _pq_light(signal) / WHITE if transfer == PQ else signal**GAMMA


def _hlg_light(signal: Colours) -> Colours:
    """Light (..., 3) in cd/m2 of an HLG signal."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    light: Colours = HLG_PEAK * scene**HLG_GAMMA
    return light


def _pq_light(signal: Colours) -> Colours:
    """Light (..., 3) in cd/m2 of a PQ signal."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    root = signal ** (1 / m2)
    light: Colours = PQ_PEAK * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    return light


def _compressed(light: Colours) -> Colours:
    """Light in units of white: below the knee as it is, above it towards 1."""
    above = np.maximum(light - KNEE, 0) / (1 - KNEE)
    return np.where(light <= KNEE, light, KNEE + (1 - KNEE) * above / (1 + above))
