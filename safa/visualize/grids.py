"""The grid of ``--grid``: everything the model computed for one frame, as labelled panels in rows."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from safa.batching import batched
from safa.geometry.grids import identity_grid
from safa.models.safa import AnimatedBatch
from safa.visualize.images import BACKGROUND, RgbImage, from_tensor, resized, stacked
from safa.visualize.overlays import flow, heat, normalised_to_px, with_keypoints
from safa.visualize.panels import GAP, Panel, captioned

PER_ROW = 8  # panels
PANEL = 160  # px, side of a panel


def grid_image(source: RgbImage, source_keypoints: np.ndarray, batch: AnimatedBatch, i: int) -> RgbImage:
    """Draw frame ``i`` of a batch with all intermediate results.

    These are source, driving frame and prediction with keypoints, warped source, 3D render, flow of the 3D
    motion and of all motions, both occlusion maps, and the weight of each of the K + 2 motions.

    Args:
        source: (S, S, 3).
        source_keypoints: (K, 2), normalised.
    """
    panels = [_fitted(panel) for panel in _panels(source, source_keypoints, batch, i)]
    missing = -len(panels) % PER_ROW
    panels += [Panel("", np.full_like(panels[0].image, BACKGROUND))] * missing
    return stacked([captioned(row, PANEL) for row in batched(panels, PER_ROW)], GAP)


def _panels(source: RgbImage, source_keypoints: np.ndarray, batch: AnimatedBatch, i: int) -> list[Panel]:
    result = batch.result
    motion, render = result.motion, result.render
    driving, size = from_tensor(batch.driving[i]), len(source)
    in_source = normalised_to_px(source_keypoints, size)
    in_driving = normalised_to_px(batch.face.keypoints.value[i].float().cpu().numpy(), size)
    in_result = normalised_to_px(result.kp_driving.value[i].float().cpu().numpy(), size)
    prediction = from_tensor(result.prediction[i])
    field = render.motion_field[i].detach().float().cpu().permute(1, 2, 0)
    still = identity_grid(field.shape[0], field.shape[1], dtype=field.dtype, device=field.device)
    panels = [
        Panel("source", with_keypoints(source, in_source, PANEL)),
        Panel("driving", with_keypoints(driving, in_driving, PANEL)),
        Panel("prediction", prediction),
        Panel("its keypoints", with_keypoints(prediction, in_result, PANEL)),
        Panel("warped source", from_tensor(result.deformed[i])),
        Panel("3D render", from_tensor(render.reenact[i])),
        Panel("3D flow", flow(field + still)),
        Panel("whole flow", flow(motion.deformation[i])),
        Panel("occlusion 1", heat(motion.occlusion1[i, 0])),
        Panel("occlusion 2", heat(motion.occlusion2[i, 0])),
    ]
    return panels + [
        Panel(label, heat(mask))
        for label, mask in zip(_motion_names(motion.masks[i]), motion.masks[i], strict=True)
    ]


def _motion_names(masks: Tensor) -> list[str]:
    """Name the K + 2 motions of masks (K + 2, H, W) in their order."""
    return ["background", *(f"motion {k + 1}" for k in range(len(masks) - 2)), "3D motion"]


def _fitted(panel: Panel) -> Panel:
    return Panel(panel.label, resized(panel.image, (PANEL, PANEL)))
