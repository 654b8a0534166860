"""How close predicted landmarks are to their targets: one number per frame, float64."""

from __future__ import annotations

from torch import Tensor

OUTER_EYE_CORNERS = (36, 45)  # iBUG numbers, counted from 0
AKD_SIZE = 256  # px, side of the image in whose pixels AKD is measured


def landmark_nme(prediction: Tensor, target: Tensor) -> Tensor:
    """Normalised mean error of the 68 landmarks: 0 (equal) upwards, lower is better; 0.08 is shown as 8 %.

    Mean distance of a point from its target, over the inter-ocular distance, which is the distance of the
    outer eye corners (points 36 and 45, from 0) of the target landmarks. The points are the 3DMM's of the
    driving frame; the targets are those that came with the data. No unit. NaN where the frame has no face.

    Args:
        prediction, target: (F, 68, 2) in any unit, the same for both; either may be (1, 68, 2).
    """
    _check_points(prediction, target)
    left, right = (target[:, corner].double() for corner in OUTER_EYE_CORNERS)
    distance = (prediction.double() - target.double()).norm(dim=-1).mean(-1)
    error: Tensor = distance / (left - right).norm(dim=-1)
    return error


def akd(prediction: Tensor, target: Tensor, size: int) -> Tensor:
    """Average keypoint distance: 0 (equal) upwards, lower is better, in pixels of an image of 256 x 256.

    Mean absolute difference, over the 68 points and over x and y, of the landmarks that a detector finds in
    the prediction and in the target frame. NaN where it finds no face in one of them; the detection rate says
    how often it does.

    Args:
        prediction, target: (F, 68, 2) px of the images; either may be (1, 68, 2).
        size: side of the images, px.
    """
    _check_points(prediction, target)
    difference = (prediction.double() - target.double()).abs().flatten(1).mean(1)
    return difference * (AKD_SIZE / size)


def detected(prediction: Tensor, target: Tensor) -> Tensor:
    """Detection rate: share of frames in which the detector finds a face in the prediction and in the target.

    0 to 1, higher is better, shown as %. AKD is the mean over these frames alone: read both together.

    Args:
        prediction, target: (F, 68, 2), NaN where no face was found; either may be (1, 68, 2).
    """
    _check_points(prediction, target)
    both = prediction.isfinite().all((1, 2)) & target.isfinite().all((1, 2))
    return both.double()


def _check_points(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape[-2:] != (68, 2) or target.shape[-2:] != (68, 2):
        raise ValueError(f"landmarks are (F, 68, 2), not {tuple(prediction.shape)} and {tuple(target.shape)}")
