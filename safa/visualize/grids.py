"""``--grid``: everything the model did with a frame, as labelled panels in rows."""

from __future__ import annotations

import numpy as np

from safa.geometry.grids import identity_grid
from safa.models.safa import AnimatedBatch
from safa.visualize.images import RgbImage, from_tensor, resized, stacked
from safa.visualize.overlays import flow, heat, normalised_to_px, with_keypoints
from safa.visualize.panels import GAP, Panel, captioned

PER_ROW = 8
PANEL = 160  # px


def grid_picture(source: RgbImage, source_keypoints: np.ndarray, batch: AnimatedBatch, i: int) -> RgbImage:
    """Frame ``i`` of a batch and the way to it.

    Source and driving frame with keypoints, warped source, both occlusion maps, flow of the 3D motion and of
    the whole, 3D render, prediction, and the share of each of the K + 2 motions.

    Args:
        source: (S, S, 3).
        source_keypoints: (K, 2), normalised.
    """
    panels = [_fitted(panel) for panel in _panels(source, source_keypoints, batch, i)]
    missing = -len(panels) % PER_ROW
    panels += [Panel("", np.zeros_like(panels[0].picture))] * missing
    rows = [captioned(panels[k : k + PER_ROW], PANEL) for k in range(0, len(panels), PER_ROW)]
    return stacked(rows, GAP)


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
        Panel("and its points", with_keypoints(prediction, in_result, PANEL)),
        Panel("warped source", from_tensor(result.deformed[i])),
        Panel("3D render", from_tensor(render.reenact[i])),
        Panel("flow of 3D", flow(field + still)),
        Panel("flow of all", flow(motion.deformation[i])),
        Panel("occlusion 1", heat(motion.occlusion1[i, 0])),
        Panel("occlusion 2", heat(motion.occlusion2[i, 0])),
    ]
    return panels + [
        Panel(label, heat(mask))
        for label, mask in zip(_motions(motion.masks[i]), motion.masks[i], strict=True)
    ]


def _motions(masks: object) -> list[str]:
    """Names of the K + 2 motions, in their order."""
    count = len(masks)  # type: ignore[arg-type]
    return ["background", *(f"motion {k + 1}" for k in range(count - 2)), "3D motion"]


def _fitted(panel: Panel) -> Panel:
    return Panel(panel.label, resized(panel.picture, (PANEL, PANEL)))
