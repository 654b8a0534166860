"""Losses and gradients of both training stages, through the very functions that train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor, nn

from parity_cases import gradients
from parity_cases.golden import Golden, images
from parity_cases.gradients import STATED, Gradients, Norms
from parity_cases.rows import Row, exact, loss, picture
from safa import losses
from safa.config import ModelConfig
from safa.config.losses import HeadLossConfig, LossConfig
from safa.data.batches import FrameBatch, PairBatch
from safa.geometry.tps import EquivarianceTransform
from safa.training.steps import Criteria, Losses, Networks, discriminator_step, generator_step, head_step

SOFT_SCALE = 0.1  # attention's softmax scale in the soft files: gradients without the noise it amplifies

T = TypeVar("T")

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
# Losses that reach the discriminator's parameters in the reference's generator step, where they are not used.
ADVERSARIAL = ("total", "gan_fm")


class FullStep:
    """One recorded stage-2 step: batch, transform and weights of the set."""

    def __init__(self, golden: Golden, config: ModelConfig) -> None:
        arrays = golden.arrays("train_inputs")
        model = golden.new_safa(without_dropout(config)).train()
        model.tdmm.keep_encoder_bn_frozen()
        self.networks = Networks(model.kp_detector, model.tdmm, model.generator, golden.discriminator)
        self.batch = PairBatch(
            clip_ids=("", ""),
            source=images(arrays["source_u8"]),
            driving=images(arrays["driving_u8"]),
            source_landmarks=torch.from_numpy(arrays["source_ldmk_2d"]),
            driving_landmarks=torch.from_numpy(arrays["driving_ldmk_2d"]),
        )
        self.transform = EquivarianceTransform(
            torch.from_numpy(arrays["theta"]), torch.from_numpy(arrays["control_params"])
        )
        self.criteria = _RecordedCriteria(config, self.transform, golden.vgg)
        self.result = generator_step(self.networks, self.batch, self.criteria, torch.Generator())

    @cached_property
    def discriminator(self) -> Losses:
        """The discriminator's step that follows, with the same weights."""
        return discriminator_step(self.networks, self.result.outputs, self.criteria)

    def parameters(self) -> dict[str, Tensor]:
        """Every parameter under its recorded name."""
        parts = {
            "generator": self.networks.generator,
            "kp_detector": self.networks.kp_detector,
            "tdmm": self.networks.tdmm,
        }
        return {name: p for part, network in parts.items() for name, p in _named_parameters(network, part)}

    def critic_parameters(self) -> dict[str, Tensor]:
        return dict(_named_parameters(self.networks.discriminator, "discriminator"))

    def adversarial_loss(self) -> Tensor:
        """The adversarial terms with a live discriminator.

        ``generator_step`` spares these gradients, which nothing uses; they are recorded, so made here.
        """
        outputs, scales = self.result.outputs, self.criteria.discriminator_scales
        keypoints = outputs.kp_driving.value.detach()
        real, fake = (
            self.networks.discriminator(p.at(scales), keypoints) for p in (outputs.real, outputs.fake)
        )
        weights = self.criteria.config.weights
        return weights.generator_gan * losses.generator_gan(
            fake
        ) + weights.feature_matching * losses.feature_matching(real, fake)


class _RecordedCriteria(Criteria):
    """Criteria with the recorded transform in place of a random one, and the filled VGG19."""

    def __init__(self, config: ModelConfig, transform: EquivarianceTransform, vgg: nn.Module) -> None:
        super().__init__(LossConfig(), config)
        self.recorded = transform
        self.vgg = vgg

    def transform(self, batch: int, rng: torch.Generator, like: Tensor) -> EquivarianceTransform:
        return self.recorded


def head_stage(golden: Golden) -> Iterator[Row]:
    """Stage 1 with BatchNorm in training and in evaluation mode, dropout off."""
    arrays = golden.arrays("tdmm_pretrain")
    reference, truth = golden.json("tdmm_pretrain"), golden.json("tdmm_pretrain_f64")
    image = images(arrays["image_u8"])
    batch = FrameBatch(("",) * len(image), image, torch.from_numpy(arrays["ldmk"]))
    for mode in ("train", "eval"):
        network = golden.new_safa(without_dropout(golden.config)).tdmm
        network.train(mode == "train")
        result = head_step(network, batch, HeadLossConfig())
        yield from _loss_rows("pretrain", result, reference[mode]["losses"], f"{mode}.")
        yield loss("pretrain", f"{mode}.total", result.total.item(), reference[mode]["total"])
        found = _gradients(result.total, dict(_named_parameters(network)))
        recorded = truth[mode]["grads_norm_sum_numel"]
        tensor = f"{mode} -> tdmm"
        yield gradients.norms("pretrain", tensor, found, recorded, STATED[f"pretrain_{mode}", "tdmm"])


def full_stage(golden: Golden) -> Iterator[Row]:
    """Stage 2 with the published attention: outputs, losses, running statistics, total gradients."""
    step = FullStep(golden, golden.config)
    reference, truth = golden.json("train_losses"), golden.json("train_losses_f64")
    yield from _output_rows(golden, step)
    yield from _statistics_rows(golden, step.networks)
    yield from _loss_rows("train", step.result.losses, reference["losses"])
    yield loss("train", "total", step.result.losses.total.item(), reference["total"])
    yield from _loss_rows("train", step.discriminator, reference["disc"]["losses"])

    found = _gradients(step.result.losses.total, step.parameters())
    found |= _gradients(step.adversarial_loss(), step.critic_parameters())
    single, double = reference["grads_norm_sum_numel"], truth["grads_norm_sum_numel"]
    for network in ("generator", "kp_detector", "tdmm", "discriminator"):
        noise = gradients.measured(_part(single, network), _part(double, network))
        noise = noise.at_least(STATED["total", network])
        yield from _gradient_rows("train", "total", network, found, double, noise)
    stem = "train_grad_samples_generator_step"
    yield gradients.samples("train", "total", found, golden.arrays(stem), golden.arrays(f"{stem}_f64"))
    yield from _critic_rows(golden, step, truth["disc"]["grads_norm_sum_numel"])


def loss_groups(golden: Golden) -> Iterator[Row]:
    """Stage 2 with a soft attention: gradients of every parameter, per group of losses."""
    step = FullStep(golden, _with_softmax_scale(golden.config, SOFT_SCALE))
    reference = golden.json("train_soft")
    recorded = golden.arrays("train_soft_outputs")["prediction_s2"]
    prediction = step.result.outputs.generated.prediction[..., ::2, ::2]
    yield picture("train_soft", "prediction_s2", prediction.detach().numpy(), recorded)
    yield from _loss_rows("train_soft", step.result.losses, reference["f32"]["losses"])
    yield from _loss_rows("train_soft", step.discriminator, reference["f32"]["disc"]["losses"])
    terms = step.result.losses.terms
    for group, members in reference["groups"].items():
        total = torch.stack([terms[TERMS[member]] for member in members]).sum()
        found = _gradients(total, step.parameters())
        if group in ADVERSARIAL:
            found |= _gradients(step.adversarial_loss(), step.critic_parameters())
        truth = reference["f64"][f"grads.{group}"]
        for network in ("generator", "kp_detector", "tdmm", "discriminator"):
            if any(value is not None for value in _part(truth, network).values()):
                noise = STATED[group, network]
                yield from _gradient_rows("train_soft", group, network, found, truth, noise)
    found = _gradients(step.result.losses.total, step.parameters())
    stem = "train_soft_grad_samples"
    yield gradients.samples(
        "train_soft", "total", found, golden.arrays(f"{stem}_f32"), golden.arrays(f"{stem}_f64")
    )


def without_dropout(config: ModelConfig) -> ModelConfig:
    return config.model_copy(update={"head": config.head.model_copy(update={"dropout": 0.0})})


def _with_softmax_scale(config: ModelConfig, scale: float) -> ModelConfig:
    sizes = config.generator
    attention = sizes.attention.model_copy(update={"softmax_scale": scale})
    return config.model_copy(update={"generator": sizes.model_copy(update={"attention": attention})})


def _loss_rows(case: str, ours: Losses, recorded: Mapping[str, float], prefix: str = "") -> Iterator[Row]:
    for name, value in recorded.items():
        yield loss(case, prefix + name, ours.terms[TERMS[name]].item(), value)


def _output_rows(golden: Golden, step: FullStep) -> Iterator[Row]:
    """What the step computed on its way, in training mode."""
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
    pictures = {
        "deformation": motion.deformation,
        "occlusion_map1": motion.occlusion1,
        "occlusion_map2": motion.occlusion2,
        "mask": motion.masks,
        "prediction_s2": outputs.generated.prediction[..., ::2, ::2],
    }
    for name, tensor in pictures.items():
        yield picture("train", name, tensor.detach().numpy(), reference[name])


def _statistics_rows(golden: Golden, networks: Networks) -> Iterator[Row]:
    """BatchNorm's running statistics after the forward pass."""
    reference = golden.arrays("train_running_stats")
    state = {
        f"{part}.{name}": value
        for part, network in (("generator", networks.generator), ("kp_detector", networks.kp_detector))
        for name, value in network.state_dict().items()
    }
    for name, recorded in reference.items():
        yield exact("train", name, state[name].numpy(), recorded)


def _critic_rows(golden: Golden, step: FullStep, truth: Norms) -> Iterator[Row]:
    found = _gradients(step.discriminator.total, step.critic_parameters())
    noise = STATED["gan_fm", "discriminator"]
    yield from _gradient_rows("train", "disc_gan", "discriminator", found, truth, noise)
    stem = "train_grad_samples_discriminator_step"
    yield gradients.samples("train", "disc_gan", found, golden.arrays(stem), golden.arrays(f"{stem}_f64"))


def _gradient_rows(
    case: str, group: str, network: str, found: Gradients, truth: Norms, noise: gradients.Noise
) -> Iterator[Row]:
    tensor = f"{group} -> {network}"
    ours, wanted = _part(found, network), _part(truth, network)
    yield gradients.has_same_gradients(case, tensor, ours, wanted)
    yield gradients.norms(case, tensor, ours, wanted, noise)


def _gradients(total: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    """Gradients by name; the graph stays for the next group. None where the loss does not reach."""
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    found = torch.autograd.grad(total, list(trained.values()), retain_graph=True, allow_unused=True)
    return {**dict.fromkeys(parameters), **dict(zip(trained, found, strict=True))}


def _named_parameters(network: nn.Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Parameters by their recorded names: the 3DMM's linear layer goes by its other name there."""
    for name, parameter in network.named_parameters(prefix):
        yield name.replace("encoder.fc.", "encoder.model.classifier.1."), parameter


def _part(values: Mapping[str, T], network: str) -> dict[str, T]:
    return {name: value for name, value in values.items() if name.startswith(f"{network}.")}
