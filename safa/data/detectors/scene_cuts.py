"""Scene cuts: between which frames the picture changes as a whole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CUT = 25.0  # mean difference of two frames, in levels of 255, from which on they are of two scenes
CUT_POINTS = 48  # a side, at which frames are compared


class SceneCuts:
    """Compares each frame with the one before."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = ()
        self._small: NDArray[np.int16] | None = None  # the frame before, (CUT_POINTS, CUT_POINTS, 3)

    def is_cut(self, frame: NDArray[np.uint8]) -> bool:
        """Say whether a frame (H, W, 3) is of another scene than the one before, or of another size."""
        rows, columns = (np.linspace(0, size - 1, CUT_POINTS).astype(int) for size in frame.shape[:2])
        small, before = frame[rows[:, None], columns].astype(np.int16), self._small
        is_other_size = frame.shape != self._shape
        self._small, self._shape = small, frame.shape
        if before is None:
            return False
        return is_other_size or float(np.abs(small - before).mean()) > CUT
