"""Recorded training steps, run again through the very functions that train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from parity_cases.golden import Golden, images
from safa import losses
from safa.config import ModelConfig
from safa.config.losses import LossConfig
from safa.data.sampler import PairBatch
from safa.geometry.tps import EquivarianceTransform
from safa.head.raster import Fragments, rasterize
from safa.models.backbones.vgg19 import Vgg19Features
from safa.models.discriminator import MultiScaleDiscriminator
from safa.tensor_tree import map_tensors
from safa.training.steps import Criteria, Losses, Networks, discriminator_step, generator_step


class FullStep:
    """One recorded stage-2 step: batch, transform and weights of the set, in float32 or float64."""

    def __init__(self, golden: Golden, config: ModelConfig, dtype: torch.dtype = torch.float32) -> None:
        arrays = golden.arrays("train_inputs")
        model = golden.new_safa(without_dropout(config)).to(dtype).train()
        model.tdmm.keep_encoder_bn_frozen()
        model.tdmm._rasterizer = rasterize_in_float32
        discriminator = golden.filled(MultiScaleDiscriminator(config)).to(dtype)
        self.networks = Networks(model.kp_detector, model.tdmm, model.generator, discriminator)
        batch = PairBatch(
            clip_ids=("", ""),
            source=images(arrays["source_u8"]),
            driving=images(arrays["driving_u8"]),
            source_landmarks=torch.from_numpy(arrays["source_ldmk_2d"]),
            driving_landmarks=torch.from_numpy(arrays["driving_ldmk_2d"]),
        )
        transform = EquivarianceTransform(
            torch.from_numpy(arrays["theta"]), torch.from_numpy(arrays["control_params"])
        )
        self.batch = map_tensors(lambda tensor: tensor.to(dtype), batch)
        self.transform = map_tensors(lambda tensor: tensor.to(dtype), transform)
        self.criteria = _RecordedCriteria(config, self.transform, golden.filled(Vgg19Features())).to(dtype)
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
        return {name: p for part, network in parts.items() for name, p in named_parameters(network, part)}

    def discriminator_parameters(self) -> dict[str, Tensor]:
        return dict(named_parameters(self.networks.discriminator, "discriminator"))

    def adversarial_loss(self) -> Tensor:
        """The adversarial terms with a live discriminator.

        ``generator_step`` spares these gradients, as nothing uses them. They are recorded, so compare them.
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
        self.network = vgg

    def transform(self, batch: int, rng: torch.Generator, like: Tensor) -> EquivarianceTransform:
        return self.recorded


def rasterize_in_float32(vertices: Tensor, faces: Tensor, size: int) -> Fragments:
    """Rasterise in float32, as the float64 files do: the face a pixel sees is the same in any precision."""
    fragments = rasterize(vertices.float(), faces, size)
    return Fragments(fragments.face_index, fragments.zbuf.to(vertices), fragments.bary.to(vertices))


def without_dropout(config: ModelConfig) -> ModelConfig:
    return config.model_copy(update={"head": config.head.model_copy(update={"dropout": 0.0})})


def with_softmax_scale(config: ModelConfig, scale: float) -> ModelConfig:
    sizes = config.generator
    attention = sizes.attention.model_copy(update={"softmax_scale": scale})
    return config.model_copy(update={"generator": sizes.model_copy(update={"attention": attention})})


def all_gradients(total: Tensor, parameters: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    """Gradients by name; the graph stays for the next group. None where the loss does not reach."""
    trained = {name: p for name, p in parameters.items() if p.requires_grad}
    computed = torch.autograd.grad(total, list(trained.values()), retain_graph=True, allow_unused=True)
    return {**dict.fromkeys(parameters), **dict(zip(trained, computed, strict=True))}


def named_parameters(network: nn.Module, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Parameters by their recorded names: the 3DMM's linear layer goes by its other name there."""
    for name, parameter in network.named_parameters(prefix):
        yield name.replace("encoder.fc.", "encoder.model.classifier.1."), parameter
