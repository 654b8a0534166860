"""Losses and gradients of both training stages, through the very functions that train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from typing import TypeVar

import torch

from parity_cases import gradients
from parity_cases.golden import Golden, images
from parity_cases.gradients import STATED, Gradients, Norms
from parity_cases.recorded_steps import (
    FullStep,
    all_gradients,
    named_parameters,
    with_softmax_scale,
    without_dropout,
)
from parity_cases.rows import LOSS_RELATIVE, TRAINING_IMAGE, Row, exact, loss, picture
from safa.config.losses import HeadLossConfig
from safa.data.sampler import FrameBatch
from safa.tensor_tree import map_tensors
from safa.training.steps import Losses, Networks, head_step

T = TypeVar("T")

SOFT_SCALE = 0.1  # attention's softmax scale in the soft files: gradients without the noise it amplifies

# Our terms by the names of the recorded ones.
TERMS = {
    "ldmk_loss": "landmark",
    "param_loss": "tdmm_param",
    "landmark": "landmark",
    "photometric": "photometric",
    "tdmm_param": "tdmm_param",
    "perceptual": "perceptual",
    "gen_gan": "generator_gan",
    "feature_matching": "feature_matching",
    "equivariance_value": "equivariance_value",
    "equivariance_jacobian": "equivariance_jacobian",
    "disc_gan": "discriminator_gan",
}
# The group that also reaches the discriminator in the reference's generator step, where nothing uses it.
ADVERSARIAL = "gan_fm"
NETWORKS = ("generator", "kp_detector", "tdmm", "discriminator")
# In float64 only the rasteriser's float32 barycentric weights are left as noise.
DOUBLE_LOSS = 1e-7
DOUBLE_NOISE = gradients.Noise(1e-5, 1e-4)


def _behind_rasterizer(case: Callable[[Golden], Iterator[Row]]) -> Callable[[Golden], Iterator[Row]]:
    """Say of all rows of a case that a pixel of a mask can move them: losses and gradients sum over all."""

    @wraps(case)
    def marked(golden: Golden) -> Iterator[Row]:
        for row in case(golden):
            yield replace(row, behind_rasterizer=True)

    return marked


def head_stage(golden: Golden) -> Iterator[Row]:
    """Stage 1 with BatchNorm in training and in evaluation mode, dropout off; in float32 and in float64."""
    single, double = golden.json("tdmm_pretrain"), golden.json("tdmm_pretrain_f64")
    arrays = golden.arrays("tdmm_pretrain")
    image = images(arrays["image_u8"])
    frames = FrameBatch(("",) * len(image), image, torch.from_numpy(arrays["ldmk"]))
    for mode in ("train", "eval"):
        truth = double[mode]["grads_norm_sum_numel"]
        for dtype, recorded, limit, noise in (
            (torch.float32, single[mode], LOSS_RELATIVE, STATED[f"pretrain_{mode}", "tdmm"]),
            (torch.float64, double[mode], DOUBLE_LOSS, DOUBLE_NOISE),
        ):
            prefix = f"{mode}.{'float64.' * (dtype == torch.float64)}"
            network = golden.new_safa(without_dropout(golden.config)).tdmm.to(dtype).train(mode == "train")
            batch = map_tensors(lambda tensor, dtype=dtype: tensor.to(dtype), frames)  # type: ignore[misc]
            result = head_step(network, batch, HeadLossConfig())
            yield from _loss_rows("pretrain", result, recorded["losses"], prefix, limit)
            yield loss("pretrain", f"{prefix}total", result.total.item(), recorded["total"], limit)
            computed = all_gradients(result.total, dict(named_parameters(network)))
            yield gradients.norms("pretrain", f"{prefix}loss -> tdmm", computed, truth, noise)


@_behind_rasterizer
def full_stage(golden: Golden) -> Iterator[Row]:
    """Stage 2 with the published attention: outputs, losses, running statistics, total gradients."""
    step = FullStep(golden, golden.config)
    reference, truth = golden.json("train_losses"), golden.json("train_losses_f64")
    yield from _output_rows(golden, step)
    yield from _statistics_rows(golden, step.networks)
    yield from _loss_rows("train", step.result.losses, reference["losses"])
    yield loss("train", "total", step.result.losses.total.item(), reference["total"])
    yield from _loss_rows("train", step.discriminator, reference["disc"]["losses"])

    computed = all_gradients(step.result.losses.total, step.parameters())
    computed |= all_gradients(step.adversarial_loss(), step.discriminator_parameters())
    single, double = reference["grads_norm_sum_numel"], truth["grads_norm_sum_numel"]
    for network in NETWORKS:
        noise = gradients.measured(_part(single, network), _part(double, network))
        noise = noise.at_least(STATED["total", network])
        yield from _gradient_rows("train", "total", network, computed, double, noise)
    stem = "train_grad_samples_generator_step"
    yield gradients.samples("train", "total", computed, golden.arrays(stem), golden.arrays(f"{stem}_f64"))
    yield from _discriminator_rows(golden, step, truth["disc"]["grads_norm_sum_numel"])


@_behind_rasterizer
def loss_groups(golden: Golden) -> Iterator[Row]:
    """Stage 2 with a soft attention: gradients of every parameter, per group of losses."""
    step = FullStep(golden, with_softmax_scale(golden.config, SOFT_SCALE))
    reference = golden.json("train_soft")
    recorded = golden.arrays("train_soft_outputs")["prediction_s2"]
    prediction = step.result.outputs.generated.prediction[..., ::2, ::2]
    yield picture("train_soft", "prediction_s2", prediction.detach().numpy(), recorded, TRAINING_IMAGE)
    yield from _loss_rows("train_soft", step.result.losses, reference["f32"]["losses"])
    yield from _loss_rows("train_soft", step.discriminator, reference["f32"]["disc"]["losses"])
    for group, computed in _group_gradients(step, reference["groups"]):
        truth = reference["f64"][f"grads.{group}"]
        for network in _reached(truth):
            noise = STATED[group, network]
            yield from _gradient_rows("train_soft", group, network, computed, truth, noise)
    total = all_gradients(step.result.losses.total, step.parameters())
    single, double = (golden.arrays(f"train_soft_grad_samples_{kind}") for kind in ("f32", "f64"))
    yield gradients.samples("train_soft", "total", total, single, double)


def in_float64(golden: Golden) -> Iterator[Row]:
    """Both recorded stage-2 steps in float64, where nearly no noise is left to hide a mistake."""
    step = FullStep(golden, golden.config, torch.float64)
    truth = golden.json("train_losses_f64")
    yield from _loss_rows("float64", step.result.losses, truth["losses"], limit=DOUBLE_LOSS)
    yield from _loss_rows("float64", step.discriminator, truth["disc"]["losses"], limit=DOUBLE_LOSS)
    total = all_gradients(step.result.losses.total, step.parameters())
    total |= all_gradients(step.adversarial_loss(), step.discriminator_parameters())
    for network in NETWORKS:
        recorded = truth["grads_norm_sum_numel"]
        yield from _gradient_rows("float64", "total", network, total, recorded, DOUBLE_NOISE)

    step = FullStep(golden, with_softmax_scale(golden.config, SOFT_SCALE), torch.float64)
    reference = golden.json("train_soft")
    yield from _loss_rows("float64", step.result.losses, reference["f64"]["losses"], "soft.", DOUBLE_LOSS)
    for group, computed in _group_gradients(step, reference["groups"]):
        truth = reference["f64"][f"grads.{group}"]
        for network in _reached(truth):
            yield from _gradient_rows("float64", f"soft.{group}", network, computed, truth, DOUBLE_NOISE)


def _loss_rows(
    case: str, ours: Losses, recorded: Mapping[str, float], prefix: str = "", limit: float = LOSS_RELATIVE
) -> Iterator[Row]:
    for name, value in recorded.items():
        yield loss(case, prefix + name, ours.terms[TERMS[name]].item(), value, limit)


def _output_rows(golden: Golden, step: FullStep) -> Iterator[Row]:
    """Compare what the step computed on its way, in training mode."""
    reference = golden.arrays("train_outputs")
    outputs, driving = step.result.outputs, step.batch.driving
    motion = outputs.generated.motion
    transformed = step.transform.warp_frame(driving)
    points = torch.from_numpy(reference["warp_points"])
    exact_tensors = {
        "kp_source_value": outputs.kp_source.value,
        "kp_source_jacobian": outputs.kp_source.jacobian,
        "kp_driving_value": outputs.kp_driving.value,
        "kp_driving_jacobian": outputs.kp_driving.jacobian,
        "transformed_frame_s2": transformed[..., ::2, ::2],
        "warp_value": step.transform.warp_points(points),
        "warp_jacobian": step.transform.jacobian(points),
    }
    for scale, features in enumerate(golden.vgg(driving)):
        exact_tensors[f"vgg_real_{scale}_mean"] = features.mean((2, 3))
    for name, tensor in exact_tensors.items():
        yield exact("train", name, tensor.detach().numpy(), reference[name])
    image_tensors = {
        "deformation": motion.deformation,
        "occlusion_map1": motion.occlusion1,
        "occlusion_map2": motion.occlusion2,
        "mask": motion.masks,
        "prediction_s2": outputs.generated.prediction[..., ::2, ::2],
    }
    for name, tensor in image_tensors.items():
        yield picture("train", name, tensor.detach().numpy(), reference[name], TRAINING_IMAGE)


def _statistics_rows(golden: Golden, networks: Networks) -> Iterator[Row]:
    """Compare BatchNorm's running statistics after the forward pass."""
    reference = golden.arrays("train_running_stats")
    state = {
        f"{part}.{name}": value
        for part, network in (("generator", networks.generator), ("kp_detector", networks.kp_detector))
        for name, value in network.state_dict().items()
    }
    for name, recorded in reference.items():
        yield exact("train", name, state[name].numpy(), recorded)


def _discriminator_rows(golden: Golden, step: FullStep, truth: Norms) -> Iterator[Row]:
    computed = all_gradients(step.discriminator.total, step.discriminator_parameters())
    noise = STATED["gan_fm", "discriminator"]
    yield from _gradient_rows("train", "disc_gan", "discriminator", computed, truth, noise)
    stem = "train_grad_samples_discriminator_step"
    yield gradients.samples("train", "disc_gan", computed, golden.arrays(stem), golden.arrays(f"{stem}_f64"))


def _gradient_rows(
    case: str, group: str, network: str, computed: Gradients, truth: Norms, noise: gradients.Noise
) -> Iterator[Row]:
    tensor = f"{group} -> {network}"
    ours, target = _part(computed, network), _part(truth, network)
    yield gradients.has_same_gradients(case, tensor, ours, target)
    yield gradients.norms(case, tensor, ours, target, noise)


def _group_gradients(step: FullStep, groups: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, Gradients]]:
    """Gradients of every parameter, for one group of losses after the other."""
    terms = step.result.losses.terms
    for group, members in groups.items():
        total = torch.stack([terms[TERMS[member]] for member in members]).sum()
        computed = all_gradients(total, step.parameters())
        if group == ADVERSARIAL:
            computed |= all_gradients(step.adversarial_loss(), step.discriminator_parameters())
        yield group, computed


def _reached(truth: Norms) -> list[str]:
    """Networks that a group of losses reaches at all."""
    return [name for name in NETWORKS if any(value is not None for value in _part(truth, name).values())]


def _part(values: Mapping[str, T], network: str) -> dict[str, T]:
    return {name: value for name, value in values.items() if name.startswith(f"{network}.")}
