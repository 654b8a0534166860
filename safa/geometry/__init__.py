"""Coordinates, and everything that only needs coordinates.

The conventions of the whole project:

* **Images** are (B, 3, H, W), float32, RGB, [0, 1]. Row 0 is the top.
* **Normalised coordinates** (x, y) run over [-1, 1], x to the right, y down, and are *corner-aligned*: the
  centre of pixel column j of W lies at ``2j / (W - 1) - 1``; rows likewise. Keypoints, flows and the identity
  grid are in these units. (``grids.identity_grid``)
* **Flows** are absolute: at a driving pixel stands the source position to read from, (B, H, W, 2).
* **Warping** reads an image at normalised coordinates with ``grid_sample(align_corners=False)``. That
  disagrees with corner alignment by up to half a pixel. It is deliberate and stands in one place
  (``grids.warp``).
* **Resizing** by "bilinear" means ``align_corners=False``. (``grids.resize``)
* **The 3D head's screen** is x right, y down, z away from the viewer, [-1, 1]; the centre of pixel column j
  of S lies at ``(2j + 1) / S - 1`` (``safa.head.raster``): *not* corner-aligned, and just what ``grids.warp``
  samples.
* **Landmarks** are the 68 iBUG points (x, y) in pixels of the image they belong to; ``xy * S/2 + S/2`` takes
  them from the head's screen to a picture of S x S pixels (``safa.head.model.landmarks_px``).
* **Rotations** are axis-angle vectors (..., 3) in radians, or matrices (..., 3, 3) acting on column vectors.
"""
