"""Keypoints and the 3D head: estimator, head model, texture, rasteriser, renders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from parity_cases.golden import Array, Golden
from parity_cases.hooks import recorded_outputs
from parity_cases.rows import Row, equal, exact, labels, picture
from safa.head.model import landmarks_px, weak_perspective
from safa.head.raster import make_rasterizer
from safa.models.safa import FaceState


def keypoints(golden: Golden) -> Iterator[Row]:
    reference = golden.arrays("kp")
    for side, face in (("source", golden.source_face), ("driving", golden.driving_face)):
        yield exact("kp", f"{side}_value", face.keypoints.value.numpy(), reference[f"{side}_value"])
        yield exact("kp", f"{side}_jacobian", face.keypoints.jacobian.numpy(), reference[f"{side}_jacobian"])
    detector = golden.safa.kp_detector
    with recorded_outputs(detector, ["predictor"]) as outputs:
        heat, jacobian = detector.maps(golden.driving)
    features = outputs["predictor"]
    yield exact("kp", "driving_down", detector.down(golden.driving).numpy(), reference["driving_down"])
    yield exact("kp", "driving_logits", heat.numpy(), reference["driving_logits"])
    yield exact("kp", "driving_jacmap", jacobian.numpy(), reference["driving_jacmap"])
    yield exact("kp", "driving_predictor_s4", features[:, ::4].numpy(), reference["driving_predictor_s4"])
    yield exact(
        "kp", "driving_predictor_mean", features.mean((2, 3)).numpy(), reference["driving_predictor_mean"]
    )


def tdmm(golden: Golden) -> Iterator[Row]:
    reference = golden.arrays("tdmm")
    for side, image, face in (
        ("source", golden.source, golden.source_face),
        ("driving", golden.driving, golden.driving_face),
    ):
        for part, ours in _head_tensors(golden, image, face).items():
            if f"{side}_{part}" in reference:
                yield exact("tdmm", f"{side}_{part}", ours.numpy(), reference[f"{side}_{part}"])
    # The tensor was recorded before the camera; ours is behind it.
    code = golden.driving_face.code
    fixed = torch.from_numpy(reference["driving_flame_landmarks3d"])
    target = weak_perspective(fixed, code.scale, code.translation).numpy()
    landmarks3d = golden.safa.tdmm.geometry(code).landmarks3d.numpy()
    yield exact("tdmm", "driving_flame_landmarks3d", landmarks3d, target)
    yield from _encoder_layers(golden, reference)


def _head_tensors(golden: Golden, image: Tensor, face: FaceState) -> dict[str, Tensor]:
    code, network = face.code, golden.safa.tdmm
    geometry = network.geometry(code)
    return {
        "code": network.estimate(image).raw,
        "feature_vec": face.feature,
        "shape": code.shape,
        "exp": code.expression,
        "pose": torch.cat([code.rotation, code.jaw], dim=1),
        "cam": torch.cat([code.scale, code.translation], dim=1),
        "verts": network.flame.vertices_in_model_space(code.shape, code.expression, code.rotation, code.jaw),
        "transformed_verts": geometry.vertices,
        "landmarks_2d": landmarks_px(geometry, golden.config.image_size),
    }


def _encoder_layers(golden: Golden, reference: Mapping[str, Array]) -> Iterator[Row]:
    """Compare layers inside the estimator, each strided as the recorded tensor is."""
    prefix = "driving_enc."
    recorded = {key.removeprefix(prefix): value for key, value in reference.items() if key.startswith(prefix)}
    with recorded_outputs(golden.safa.tdmm.encoder, list(recorded)) as outputs:
        golden.safa.tdmm.estimate(golden.driving)
    for name, target in recorded.items():
        ours = outputs[name]
        step_c, step = ours.shape[1] // target.shape[1], ours.shape[-1] // target.shape[-1]
        yield exact("tdmm", prefix + name, ours[:, ::step_c, ::step, ::step].numpy(), target)


def texture(golden: Golden) -> Iterator[Row]:
    reference = golden.arrays("texture")
    network = golden.safa.tdmm
    geometry = network.geometry(golden.source_face.code)
    for key, with_eyes in (("albedo", False), ("albedo_with_eye", True)):
        if key in reference:
            ours = network.texture(golden.source, geometry, with_eyes=with_eyes)
            yield picture("texture", key, ours.numpy(), reference[key])


def render(golden: Golden) -> Iterator[Row]:
    reference = golden.arrays("render")
    network = golden.safa.tdmm
    source = network.geometry(golden.source_face.code)
    driving = network.geometry(golden.driving_face.code)
    out = network.render(source, driving, network.texture(golden.source, source))
    ours = {
        "source": out.source,
        "reenact": out.reenact,
        "source_normal_images": out.source_normals,
        "driving_normal_images": out.driving_normals,
        "source_uv_images": out.source_uv,
        "driving_uv_images": out.driving_uv,
        "motion_field": out.motion_field,
    }
    for name, tensor in ours.items():
        yield picture("render", name, tensor.numpy(), reference[name])
    for name, mask in (("source_face_mask", out.source_mask), ("driving_face_mask", out.driving_mask)):
        yield labels("render", name, mask.numpy(), reference[name])


def raster(golden: Golden) -> Iterator[Row]:
    """Compare two small meshes with degenerate, hidden, clockwise and equally near triangles."""
    reference = golden.arrays("raster")
    # Recorded with x left and y up; here x is right and y down.
    vertices = torch.from_numpy(reference["verts"]) * torch.tensor([-1.0, -1.0, 1.0])
    faces = torch.from_numpy(reference["faces"]).long()
    rasterizer = make_rasterizer("native")
    per_mesh = faces.shape[1]
    for size, step in ((64, 1), (256, 2)):
        index, zbuf, bary = [], [], []
        for mesh in range(len(vertices)):
            fragments = rasterizer(vertices[mesh : mesh + 1], faces[mesh], size)
            packed = fragments.face_index + mesh * per_mesh * (fragments.face_index >= 0)
            index.append(packed)
            zbuf.append(fragments.zbuf)
            bary.append(fragments.bary[:, ::step, ::step])
        yield equal(
            "raster", f"pix_to_face_{size}", torch.cat(index).numpy(), reference[f"pix_to_face_{size}"]
        )
        yield exact("raster", f"zbuf_{size}", torch.cat(zbuf).numpy(), reference[f"zbuf_{size}"])
        yield exact("raster", f"bary_{size}", torch.cat(bary).numpy(), reference[f"bary_{size}"])
