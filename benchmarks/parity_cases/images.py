"""Everything that ends in an image: dense motion, generator, face swap, attention, batches, animation."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from parity_cases.golden import Array, Golden
from parity_cases.hooks import recorded_outputs
from parity_cases.rows import Row, each, exact, levels, picture
from safa.config.inference import TransferConfig
from safa.geometry.gaussians import AntiAlias
from safa.inference.model_runner import ModelRunner, predictions
from safa.inference.motion_transfer import make_transfer
from safa.models.attention import ContextualAttention
from safa.models.generator import Blend
from safa.models.safa import Reenactment

TRANSFERS = {
    "rel_adapt": TransferConfig(mode="relative", adapt_scale=True),
    "rel": TransferConfig(mode="relative"),
    "abs": TransferConfig(mode="absolute"),
}
RECORDED_GRID = 64  # rows and columns of a recorded output
RECORDED_CHANNELS = (64, 8)  # of 64 channels or more, every 8th is recorded


def dense_motion(golden: Golden) -> Iterator[Row]:
    reference = golden.arrays("dense_motion")
    motion = _reenact(golden).motion
    ours = {
        "mask": motion.masks,
        "deformation": motion.deformation,
        "occlusion_map1": motion.occlusion1,
        "occlusion_map2": motion.occlusion2,
        "sparse_deformed": motion.warped_sources,
        "motion_field": motion.motion_field,
    }
    for name, tensor in ours.items():
        yield picture("dense_motion", name, tensor.numpy(), reference[name])


def generator(golden: Golden) -> Iterator[Row]:
    reference = golden.arrays("generator")
    names = [key.removeprefix("tap.") for key in reference if key.startswith("tap.")]
    with recorded_outputs(golden.safa.generator, names) as outputs:
        out = _reenact(golden)
    yield picture("generator", "prediction", out.prediction.numpy(), reference["prediction"])
    yield picture("generator", "deformed_s2", out.deformed[..., ::2, ::2].numpy(), reference["deformed_s2"])
    yield levels("generator", "prediction_u8", _to_8bit(out.prediction), reference["prediction_u8"])
    for name in names:
        output = outputs[name]
        if output.ndim == 4:
            mean = output.mean((2, 3)).numpy()
            yield picture("generator", f"tapmean.{name}", mean, reference[f"tapmean.{name}"])
            output = _thin(output)
        yield picture("generator", f"tap.{name}", output.numpy(), reference[f"tap.{name}"])


def face_swap(golden: Golden) -> Iterator[Row]:
    reference = golden.arrays("faceswap")
    mask = torch.from_numpy(reference["blend_mask_u8"].astype(np.float32) / np.float32(255))[None, None]
    features = golden.safa.generator.encode(golden.driving)
    down = AntiAlias(1, features.shape[-1] / mask.shape[-1])
    yield exact("faceswap", "blend_mask_down", down(mask).numpy(), reference["blend_mask_down"])
    out = _reenact(golden, Blend(golden.driving, features, mask))
    yield picture("faceswap", "prediction", out.prediction.numpy(), reference["prediction"])


def swap(golden: Golden) -> Iterator[Row]:
    """From the two 8-bit pictures to the swapped one, as ``safa swap`` does it, with the recorded mask."""
    reference, inputs = golden.arrays("faceswap"), golden.arrays("inputs")
    runner = ModelRunner(golden.safa)
    source = runner.prepare(inputs["source_u8"][0])
    masked = runner.swap(source, [inputs["driving_u8"][0]], _RecordedMask(reference["blend_mask_u8"]))
    (ours,) = predictions(masked)
    target = reference["prediction"][0].transpose(1, 2, 0)  # (3, H, W) -> (H, W, 3)
    yield levels("swap", "prediction_u8", ours, np.rint(target * 255).astype(np.uint8))


class _RecordedMask:
    """A swap mask (1, 1, H, W) that does not look at the picture."""

    def __init__(self, mask_u8: Array) -> None:
        self._mask = torch.from_numpy(mask_u8.astype(np.float32) / np.float32(255))[None, None]

    def of(self, image: Tensor) -> Tensor:
        return self._mask


def attention(golden: Golden) -> Iterator[Row]:
    """Contextual attention alone, on noise: far from and close to one-hot."""
    reference = golden.arrays("contextual_attention")
    shape = (2, 256, 64, 64)
    foreground, background = (
        torch.from_numpy(_rng(golden, name).standard_normal(shape, dtype=np.float32))
        for name in ("ca_f", "ca_b")
    )
    mask = torch.from_numpy(reference["mask"])
    rectified = torch.relu(0.3 * foreground + 0.1 * background)
    layer = ContextualAttention(golden.config.generator.attention)
    for name, (f, b) in {
        "sharp": (foreground, foreground),
        "soft": (0.05 * foreground, background),
        "relu": (rectified, rectified),
    }.items():
        out = layer(f, b, mask)
        yield exact("attention", f"{name}_out_s16", out[:, ::16].numpy(), reference[f"{name}_out_s16"])
        yield exact("attention", f"{name}_mean", out.mean((2, 3)).numpy(), reference[f"{name}_mean"])
        yield exact(
            "attention", f"{name}_absmean", out.abs().mean((2, 3)).numpy(), reference[f"{name}_absmean"]
        )


def batch(golden: Golden) -> Iterator[Row]:
    """The source with two driving frames at once."""
    reference = golden.arrays("batch2")
    frames = golden.driving_frames[[0, 2]]
    driving = golden.safa.analyse(frames)
    out = golden.safa.reenact(golden.safa.prepare_source(golden.source), driving)
    yield exact("batch2", "kp_driving_value", driving.keypoints.value.numpy(), reference["kp_driving_value"])
    jacobian = driving.keypoints.jacobian.numpy()
    yield exact("batch2", "kp_driving_jacobian", jacobian, reference["kp_driving_jacobian"])
    yield exact("batch2", "code", golden.safa.tdmm.estimate(frames).raw.numpy(), reference["code"])
    yield picture(
        "batch2", "prediction_s2", out.prediction[..., ::2, ::2].numpy(), reference["prediction_s2"]
    )
    yield from each(levels, "batch2", "prediction_u8", _to_8bit(out.prediction), reference["prediction_u8"])


def animation(name: str, golden: Golden) -> Iterator[Row]:
    """Several driving frames, transferred in one of the ways of ``TRANSFERS``."""
    reference = {
        key.removeprefix(f"{name}_"): value
        for key, value in golden.arrays("animation").items()
        if key.startswith((f"{name}_pred", f"{name}_kp", f"{name}_transformed"))
    }
    case = f"animation_{name}"
    source = golden.safa.prepare_source(golden.source)
    transfer = make_transfer(source.face, golden.driving_face, TRANSFERS[name])
    moved = transfer(golden.safa.analyse(golden.driving_frames[: len(reference["pred_u8"])]))
    vertices = golden.safa.tdmm.geometry(moved.code).vertices[:, ::4]
    for tensor, ours in {
        "kp_norm_value": moved.keypoints.value,
        "kp_norm_jacobian": moved.keypoints.jacobian,
        "transformed_verts_s4": vertices,
    }.items():
        yield exact(case, tensor, ours.numpy(), reference[tensor])
    frames = golden.safa.reenact(source, moved).prediction.permute(0, 2, 3, 1)  # (B, 3, H, W) -> (B, H, W, 3)
    thin = frames[:, ::4, ::4].numpy()
    yield from each(picture, case, "pred_f32_s4", thin, reference["pred_f32_s4"])
    yield from each(levels, case, "pred_u8", _to_8bit(frames), reference["pred_u8"])


def _reenact(golden: Golden, blend: Blend | None = None) -> Reenactment:
    source = golden.safa.prepare_source(golden.source)
    return golden.safa.reenact(source, golden.driving_face, blend=blend)


def _thin(output: Tensor) -> Tensor:
    """The part of a module's output that is recorded."""
    many, step = RECORDED_CHANNELS
    stride = output.shape[-1] // RECORDED_GRID
    return output[:, :: step if output.shape[1] >= many else 1, ::stride, ::stride]


def _to_8bit(image: Tensor) -> Array:
    pixels: Array = np.rint(image.numpy() * 255).astype(np.uint8)
    return pixels


def _rng(golden: Golden, name: str) -> np.random.Generator:
    return np.random.Generator(
        np.random.PCG64(np.random.SeedSequence([golden.seed, zlib.crc32(name.encode())]))
    )
