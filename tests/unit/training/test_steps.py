"""Training steps: which losses are computed, whose weights they reach, and what wrappers make of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from safa import losses
from safa.config.losses import HeadLossConfig, HeadLossWeights, LossConfig, LossWeights, PerceptualConfig
from safa.config.model import (
    DiscriminatorConfig,
    GeneratorConfig,
    HeadConfig,
    HourglassConfig,
    KeypointConfig,
    ModelConfig,
)
from safa.data.sampler import FrameBatch, PairBatch
from safa.errors import UserError
from safa.head.assets import HeadAssets
from safa.models.discriminator import MultiScaleDiscriminator
from safa.models.safa import Safa
from safa.training.steps import (
    Criteria,
    GeneratorStep,
    Losses,
    Networks,
    discriminator_step,
    generator_step,
    head_step,
)

GLASS = HourglassConfig(block_expansion=4, num_blocks=2, max_features=8)
CONFIG = ModelConfig(
    image_size=32,
    num_keypoints=3,
    keypoints=KeypointConfig(hourglass=GLASS),
    head=HeadConfig(encoder_width=0.1, uv_size=16, dropout=0),
    generator=GeneratorConfig(
        block_expansion=4, max_features=16, num_bottleneck_blocks=1, dense_motion=GLASS
    ),
    discriminator=DiscriminatorConfig(scales=(1.0, 0.5), block_expansion=4, num_blocks=2, max_features=8),
)
OFF = dict.fromkeys(LossWeights.model_fields, 0.0)


@pytest.fixture
def networks(toy_head: HeadAssets) -> Networks:
    torch.manual_seed(0)
    model = Safa(CONFIG, toy_head).train()
    model.tdmm.keep_encoder_bn_frozen()
    nn.init.normal_(model.tdmm.encoder.fc.weight, std=0.02)
    nn.init.normal_(model.kp_detector.jacobian.weight, std=0.05)
    return Networks(model.kp_detector, model.tdmm, model.generator, MultiScaleDiscriminator(CONFIG))


@pytest.fixture
def batch() -> PairBatch:
    rng = torch.Generator().manual_seed(1)
    images = torch.rand(2, 2, 3, 32, 32, generator=rng)
    landmarks = torch.rand(2, 2, 68, 2, generator=rng) * 32
    return PairBatch(("a", "b"), images[0], images[1], landmarks[0], landmarks[1])


def run(networks: Networks, batch: PairBatch, **weights: float) -> GeneratorStep:
    criteria = Criteria(LossConfig(weights=LossWeights(**weights)), CONFIG)
    return generator_step(networks, batch, criteria, torch.Generator().manual_seed(2))


def reached(networks: Networks, step: Losses) -> set[str]:
    """Names of the networks that the losses' gradients reach."""
    step.total.backward()  # type: ignore[no-untyped-call]
    return {
        field.name
        for field in dataclasses.fields(networks)
        if any(
            p.grad is not None and p.grad.abs().max() > 0 for p in getattr(networks, field.name).parameters()
        )
    }


ADDITIONS = {"expression": 1.0, "keypoint_spread": 1.0}  # off by default


def test_all_terms_are_there_and_finite(networks: Networks, batch: PairBatch) -> None:
    step = run(networks, batch, **ADDITIONS)
    assert set(step.losses.terms) == set(LossWeights.model_fields) - {"discriminator_gan"}
    assert all(term.isfinite() for term in step.losses.terms.values())
    torch.testing.assert_close(step.losses.total, sum(step.losses.terms.values()))


@pytest.mark.parametrize(
    ("term", "wanted"),
    [
        ("landmark", {"tdmm"}),
        ("expression", {"tdmm"}),
        ("keypoint_spread", {"kp_detector"}),
        ("photometric", {"tdmm"}),
        ("tdmm_param", {"tdmm"}),
        ("perceptual", {"generator", "kp_detector", "tdmm"}),
        ("generator_gan", {"generator", "kp_detector", "tdmm"}),
        ("feature_matching", {"generator", "kp_detector", "tdmm"}),
        ("equivariance_value", {"kp_detector"}),
        ("equivariance_jacobian", {"kp_detector"}),
    ],
)
def test_each_term_alone_reaches_its_networks(
    networks: Networks, batch: PairBatch, term: str, wanted: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "KEYPOINT_DISTANCE", 4.0)  # untrained keypoints lie apart
    step = run(networks, batch, **OFF | {term: 2.0})
    assert set(step.losses.terms) == {term}
    assert reached(networks, step.losses) == wanted


@pytest.mark.parametrize("term", sorted(set(LossWeights.model_fields) - {"discriminator_gan"}))
def test_a_weight_of_zero_means_not_computed(
    networks: Networks, batch: PairBatch, term: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"{term} was computed")

    monkeypatch.setattr(losses, term, never)
    with pytest.raises(AssertionError, match=term):
        run(networks, batch, **ADDITIONS)
    assert term not in run(networks, batch, **ADDITIONS | {term: 0.0}).losses.terms


def test_without_adversarial_weights_the_discriminator_is_not_run(
    networks: Networks, batch: PairBatch
) -> None:
    def never(*args: object) -> None:
        raise AssertionError("the discriminator was run")

    networks.discriminator.register_forward_pre_hook(never)
    run(networks, batch, generator_gan=0.0, feature_matching=0.0)
    with pytest.raises(AssertionError, match="was run"):
        run(networks, batch)


def test_without_equivariance_the_detector_sees_two_frames(networks: Networks, batch: PairBatch) -> None:
    seen: list[int] = []
    networks.kp_detector.register_forward_pre_hook(lambda module, images: seen.append(len(images)))
    run(networks, batch)
    run(networks, batch, equivariance_value=0.0, equivariance_jacobian=0.0)
    assert seen == [3, 2]


def test_terms_scale_with_their_weights(networks: Networks, batch: PairBatch) -> None:
    networks.kp_detector.eval()
    networks.generator.eval()
    weights = LossWeights()
    once = run(networks, batch).losses.terms
    thrice = run(networks, batch, **{name: 3 * value for name, value in weights}).losses.terms
    for name, term in once.items():
        torch.testing.assert_close(thrice[name], 3 * term)


def test_all_weights_zero_is_refused(networks: Networks, batch: PairBatch) -> None:
    with pytest.raises(ValueError, match="nothing to train"):
        _ = run(networks, batch, **OFF).losses.total


def test_frames_without_a_face_leave_a_finite_loss(networks: Networks, batch: PairBatch) -> None:
    missing = torch.full_like(batch.source_landmarks, math.nan)
    step = run(networks, dataclasses.replace(batch, source_landmarks=missing))
    assert step.losses.total.isfinite()
    assert reached(networks, step.losses) == {"generator", "kp_detector", "tdmm"}


def test_the_transform_follows_the_seed(networks: Networks, batch: PairBatch) -> None:
    criteria = Criteria(LossConfig(), CONFIG)
    first, again, other = (
        criteria.transform(2, torch.Generator().manual_seed(seed), batch.driving) for seed in (3, 3, 4)
    )
    torch.testing.assert_close(first.theta, again.theta)
    assert not torch.equal(first.theta, other.theta)


def test_the_discriminator_learns_on_detached_frames(networks: Networks, batch: PairBatch) -> None:
    step = run(networks, batch)
    criteria = Criteria(LossConfig(), CONFIG)
    result = discriminator_step(networks, step.outputs, criteria)
    assert set(result.terms) == {"discriminator_gan"}
    assert reached(networks, result) == {"discriminator"}


def test_discriminator_step_equals_two_separate_passes(networks: Networks, batch: PairBatch) -> None:
    outputs = run(networks, batch).outputs
    criteria = Criteria(LossConfig(), CONFIG)
    keypoints = outputs.kp_driving.value.detach()
    real, fake = (
        networks.discriminator(p.at(CONFIG.discriminator.scales), keypoints)
        for p in (outputs.real, outputs.fake)
    )
    together = discriminator_step(networks, outputs, criteria).terms["discriminator_gan"]
    torch.testing.assert_close(together, losses.discriminator_gan(real, fake))


def test_half_precision_leaves_losses_and_geometry_alone(networks: Networks, batch: PairBatch) -> None:
    for network in (networks.kp_detector, networks.tdmm, networks.generator):
        network.eval()
    exact = run(networks, batch)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = run(networks, batch)
        scored = discriminator_step(networks, mixed.outputs, Criteria(LossConfig(), CONFIG))
    for name, term in (mixed.losses.terms | scored.terms).items():
        assert term.dtype == torch.float32, name
    torch.testing.assert_close(mixed.losses.total, exact.losses.total, rtol=1e-2, atol=0)
    kp_mixed, kp_exact = mixed.outputs.kp_driving.value, exact.outputs.kp_driving.value
    torch.testing.assert_close(kp_mixed, kp_exact, atol=1e-2, rtol=0)
    mixed.losses.total.backward()  # type: ignore[no-untyped-call]
    for name, parameter in networks.generator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_stage_one_trains_the_head_alone(networks: Networks, batch: PairBatch) -> None:
    frames = FrameBatch(batch.clip_ids, batch.source, batch.source_landmarks)
    result = head_step(networks.tdmm, frames, HeadLossConfig())
    assert set(result.terms) == {"landmark", "tdmm_param"}
    assert reached(networks, result) == {"tdmm"}
    weights = HeadLossWeights(landmark=0.0)
    assert set(head_step(networks.tdmm, frames, HeadLossConfig(weights=weights)).terms) == {"tdmm_param"}


def test_vgg_weights_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    perceptual = PerceptualConfig(backend="vgg19", weights=tmp_path / "missing.pth")
    with pytest.raises(UserError, match=r"missing\.pth"):
        Criteria(LossConfig(perceptual=perceptual), CONFIG)


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_wrapped_networks_give_the_same_gradients(networks: Networks, batch: PairBatch) -> None:
    """Every trainable network under its own DDP: two steps run, and gradients are those of bare networks."""
    names = [field.name for field in dataclasses.fields(networks)]
    state = {name: getattr(networks, name).state_dict() for name in names}
    state = {name: {k: v.clone() for k, v in part.items()} for name, part in state.items()}
    criteria = Criteria(LossConfig(), CONFIG)

    def gradients(wrapped: Networks) -> list[torch.Tensor]:
        for name in names:
            getattr(networks, name).load_state_dict(state[name])
            getattr(networks, name).zero_grad()
        for seed in (0, 1):  # a second forward pass complains if the first left a reduction unfinished
            step = generator_step(wrapped, batch, criteria, torch.Generator().manual_seed(seed))
            step.losses.total.backward()  # type: ignore[no-untyped-call]
            discriminator_step(wrapped, step.outputs, criteria).total.backward()  # type: ignore[no-untyped-call]
        return [
            p.grad.clone()
            for name in names
            for p in getattr(networks, name).parameters()
            if p.grad is not None
        ]

    bare = gradients(networks)
    wrapped = Networks(
        **{
            name: DistributedDataParallel(getattr(networks, name), forward_sync_buffers=False)
            for name in names
        }
    )
    for a, b in zip(gradients(wrapped), bare, strict=True):
        torch.testing.assert_close(a, b)
