"""The result of a comparison: one row per tensor, and the rules by which a row passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[Any]
Detail = Mapping[str, float | str]

# Tensors computed without the rasteriser: largest error over max(1, |reference|max).
RELATIVE = 1e-4
# Everything that depends on the rasteriser. One pixel of a face mask may toggle on rounding noise, and what
# is drawn or convolved around it moves; so most of an image has to agree closely, single pixels loosely.
IMAGE_SHARE = 0.999  # of the pixels, to which the quantile belongs


@dataclass(frozen=True)
class ImageLimits:
    """Largest root mean square, 99.9 % quantile and maximum of the error over max(1, |reference|max)."""

    rms: float
    quantile: float
    maximum: float


IMAGE = ImageLimits(1e-5, 1e-4, 6e-3)
# BatchNorm over a batch of two amplifies: in training mode the reference's own float32 prediction is off its
# float64 one by 1.1e-4 (rms), 9e-4 (quantile) and 2.7e-3 (maximum).
# Without AVX-512, oneDNN's convolutions round more coarsely than those of the recording. Measured on a CPU
# with AVX2: a prediction in training mode is off by 3.4e-4 (rms), 2.9e-3 (quantile) and 9.0e-3 (maximum), and
# with oneDNN switched off by 1.0e-4, 7.7e-4 and 2.6e-3; gradients are off by up to 1.3 times the usual limit.
HAS_AVX512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
TRAINING_IMAGE = ImageLimits(1e-4, 1e-3, 6e-3) if HAS_AVX512 else ImageLimits(4e-4, 4e-3, 1.2e-2)
LEVELS_8BIT = 2  # of 255
# The error of a NaN or an infinity: it fails everywhere, and can be squared and written as JSON.
NOT_A_NUMBER = 1e9
# Another convolution backend flips about one pixel in 65,536 of a face index map; allow three times that.
FLIPPED_PIXELS = 3 / 65_536
LOSS_RELATIVE = 3e-4
GRADIENT_SLACK = 3.0 if HAS_AVX512 else 4.5  # times the reference's own float32 noise


@dataclass(frozen=True)
class Row:
    """One compared tensor.

    Attributes:
        case, tensor: what was compared.
        max_abs: largest absolute error.
        relative: the same over max(1, |reference|max).
        tolerance: the rule, in words.
        passed: whether the rule holds.
        detail: measured quantities beyond the maximum.
        behind_rasterizer: whether a pixel that sees another face can move it.
    """

    case: str
    tensor: str
    max_abs: float
    relative: float
    tolerance: str
    passed: bool
    detail: Detail = field(default_factory=dict)
    behind_rasterizer: bool = False

    @property
    def may_be_fixed(self) -> bool:
        """Whether the row fails, and a single pixel of the rasteriser could be the reason."""
        return self.behind_rasterizer and not self.passed

    def or_toggled(self, toggled: Row) -> Row:
        """The toggled row if it passes and this one lies behind the rasteriser and fails; else this one."""
        if not (self.may_be_fixed and toggled.passed):
            return self
        return replace(toggled, detail={**toggled.detail, "before toggling pixels": self.relative})

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def exact(case: str, tensor: str, ours: Array, reference: Array, limit: float = RELATIVE) -> Row:
    """Compare tensors computed without the rasteriser."""
    error, largest = _errors(ours, reference)
    relative = _max(error) / largest
    return Row(case, tensor, _max(error), relative, f"relative <= {limit:g}", bool(relative <= limit))


def equal(case: str, tensor: str, ours: Array, reference: Array) -> Row:
    """Compare whole numbers, which must not differ at all."""
    error, largest = _errors(ours, reference)
    worst = _max(error)
    return Row(case, tensor, worst, worst / largest, "equal", worst == 0)


def picture(case: str, tensor: str, ours: Array, reference: Array, limits: ImageLimits = IMAGE) -> Row:
    """Compare what lies behind the rasteriser. Errors are relative to max(1, |reference|max)."""
    error, largest = _errors(ours, reference)
    scaled = error / largest
    rms = float(np.sqrt(np.mean(np.square(scaled))))
    quantile = float(np.quantile(scaled, IMAGE_SHARE))
    passed = rms <= limits.rms and quantile <= limits.quantile and _max(scaled) <= limits.maximum
    tolerance = f"rms <= {limits.rms:g}, q99.9 <= {limits.quantile:g}, max <= {limits.maximum:g}"
    detail = {"rms": rms, "q99.9": quantile}
    return Row(case, tensor, _max(error), _max(scaled), tolerance, passed, detail, behind_rasterizer=True)


def each(
    compare: Callable[[str, str, Array, Array], Row], case: str, tensor: str, ours: Array, reference: Array
) -> Iterator[Row]:
    """One row per sample of a batch."""
    for i, (one, target) in enumerate(zip(ours, reference, strict=True)):
        yield compare(case, f"{tensor}[{i}]", one, target)


def levels(case: str, tensor: str, ours: Array, reference: Array) -> Row:
    """Compare 8-bit images, by levels of 255."""
    error, largest = _errors(ours, reference)
    worst = _max(error)
    share = float(np.mean(error > 0))
    tolerance = f"<= {LEVELS_8BIT} levels"
    return Row(case, tensor, worst, worst / largest, tolerance, worst <= LEVELS_8BIT, {"pixels off": share})


def labels(case: str, tensor: str, ours: Array, reference: Array, limit: float = FLIPPED_PIXELS) -> Row:
    """Compare maps of indices, where single pixels on an edge may go either way."""
    different = np.asarray(ours != reference)
    share = float(different.mean())
    allowed = max(1, int(limit * different.size))
    tolerance = f"<= {allowed} of {different.size} differ"
    count = int(different.sum())
    return Row(case, tensor, float(count), share, tolerance, count <= allowed, {"different": count})


def loss(case: str, tensor: str, ours: float, reference: float, limit: float = LOSS_RELATIVE) -> Row:
    """Compare scalar losses: the error is relative to the reference itself."""
    error = abs(ours - reference)
    relative = error / max(abs(reference), 1e-12)
    tolerance = f"relative <= {limit:g}"
    return Row(case, tensor, error, relative, tolerance, relative <= limit, {"value": ours})


def failures(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if not row.passed]


def table(rows: Sequence[Row]) -> str:
    """All rows as text, aligned."""
    name_width = max(len(f"{row.case}/{row.tensor}") for row in rows)
    rule_width = max(len(row.tolerance) for row in rows)
    lines = [
        f"{'tensor':<{name_width}}  {'max abs':>9}  {'relative':>9}  {'tolerance':<{rule_width}}  result"
    ]
    for row in rows:
        verdict = "pass" if row.passed else "FAIL"
        more = "  ".join(
            f"{k}={v:.2g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.detail.items()
        )
        name = f"{row.case}/{row.tensor}"
        lines.append(
            f"{name:<{name_width}}  {row.max_abs:9.2e}  {row.relative:9.2e}  {row.tolerance:<{rule_width}}  "
            f"{verdict}  {more}".rstrip()
        )
    return "\n".join(lines)


def _errors(ours: Array, reference: Array) -> tuple[NDArray[np.float64], float]:
    """Absolute errors, and max(1, |reference|max). Shapes must agree; a NaN counts as very wrong."""
    if ours.shape != reference.shape:
        raise ValueError(f"shape {ours.shape} is compared with {reference.shape}")
    target = np.asarray(reference, dtype=np.float64)
    error = np.abs(np.asarray(ours, dtype=np.float64) - target)
    error = np.where(np.isfinite(error), error, NOT_A_NUMBER)
    return error, max(1.0, _max(np.abs(target)))


def _max(values: NDArray[np.float64]) -> float:
    return float(values.max()) if values.size else 0.0
