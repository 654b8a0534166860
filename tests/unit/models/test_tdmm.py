"""The 3DMM estimator as a whole."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from safa.config.model import HeadConfig, ModelConfig
from safa.head import load_head_assets
from safa.head.assets import HeadAssets
from safa.head.model import HeadCode, HeadModel, head_of_landmarks, landmarks_px
from safa.models.tdmm import Tdmm


@pytest.fixture
def tdmm(config: ModelConfig, toy_head: HeadAssets) -> Tdmm:
    torch.manual_seed(0)
    return Tdmm(config, toy_head)


def _with_output(tdmm: Tdmm) -> Tdmm:
    """Let the linear layer say something; it starts at zero."""
    nn.init.normal_(tdmm.encoder.fc.weight, std=0.05)
    return tdmm


def _images(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def _slice(values: object, index: int) -> dict[str, Tensor]:
    fields = dataclasses.fields(values)  # type: ignore[arg-type]
    return {f.name: getattr(values, f.name)[index : index + 1] for f in fields}


def test_an_untrained_estimator_sees_the_average_head(tdmm: Tdmm) -> None:
    estimate = tdmm(_images())
    assert torch.equal(estimate.raw, torch.zeros(2, 159))
    assert estimate.feature.shape == (2, 1280)
    assert estimate.code.scale.tolist() == [[10], [10]]
    assert estimate.code.translation.tolist() == [[0, 0], [0, 0]]


def test_the_first_step_has_finite_gradients_everywhere(tdmm: Tdmm) -> None:
    """The code is zero, so is every rotation."""
    source, driving = _images().chunk(2)
    estimates = [tdmm(image) for image in (source, driving)]
    poses = [tdmm.geometry(estimate.code) for estimate in estimates]
    render = tdmm.render(*poses, tdmm.texture(source, poses[0]))
    loss = (render.reenact - driving).abs().mean() + landmarks_px(poses[1], 64).square().mean()
    loss.backward()
    for name, parameter in tdmm.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    assert tdmm.encoder.fc.weight.grad.abs().max() > 0


def test_forward_trains_everything_that_is_trainable(tdmm: Tdmm) -> None:
    estimate = _with_output(tdmm)(_images())
    estimate.raw.square().sum().backward()
    trainable = [p for p in tdmm.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trainable)
    assert {n for n, p in tdmm.named_parameters() if not p.requires_grad} == {
        "flame.eye_pose",
        "flame.neck_pose",
    }


def test_a_batch_of_4_equals_4_batches_of_1(tdmm: Tdmm) -> None:
    tdmm = _with_output(tdmm).eval()
    images = _images(4)
    estimate = tdmm(images)
    geometry = tdmm.geometry(estimate.code)
    albedo = tdmm.texture(images, geometry)
    for b in range(4):
        alone = tdmm(images[b : b + 1])
        torch.testing.assert_close(alone.raw[0], estimate.raw[b], atol=1e-5, rtol=1e-4)
        code = HeadCode(**_slice(estimate.code, b))
        albedo_alone = tdmm.texture(images[b : b + 1], tdmm.geometry(code))
        torch.testing.assert_close(albedo_alone[0], albedo[b], atol=1e-4, rtol=1e-4)


def test_a_source_of_one_serves_a_batch(tdmm: Tdmm) -> None:
    tdmm = _with_output(tdmm).eval()
    images = _images(3)
    poses = tdmm.geometry(tdmm(images).code)
    source = tdmm.geometry(tdmm(images[:1]).code)
    albedo = tdmm.texture(images[:1], source)
    once = tdmm.render(tdmm.render_side(source), poses, albedo)
    each = tdmm.render(source, poses, albedo)
    for field in dataclasses.fields(once):
        assert torch.equal(getattr(once, field.name), getattr(each, field.name))
    assert once.source.shape == (3, 3, 64, 64)
    assert once.motion_field.shape == (3, 2, 64, 64)


def test_the_texture_has_the_eyes_if_asked(tdmm: Tdmm) -> None:
    image = _images(1)
    geometry = tdmm.geometry(tdmm(image.expand(2, -1, -1, -1)).code)
    geometry = dataclasses.replace(geometry, vertices=geometry.vertices[:1])
    with_eyes = tdmm.texture(image, geometry, with_eyes=True)
    without = tdmm.texture(image, geometry)
    assert without.shape == (1, 3, 32, 32)
    assert torch.equal(with_eyes * tdmm.uv_face_mask, without)
    assert with_eyes.sum() > without.sum()


def test_frozen_batch_norm_stays_so_in_training_and_dropout_does_not(tdmm: Tdmm) -> None:
    tdmm.train()
    norms = [m for m in tdmm.modules() if isinstance(m, nn.BatchNorm2d)]
    dropout = tdmm.encoder.model.classifier[0]
    assert all(norm.training for norm in norms)
    tdmm.keep_encoder_bn_frozen()
    for _ in range(2):
        assert not any(norm.training for norm in norms)
        assert dropout.training
        tdmm.eval()
        assert not dropout.training
        tdmm.train()
    before = norms[0].running_mean.clone()
    tdmm(_images())
    assert torch.equal(norms[0].running_mean, before)


def test_small_images_can_be_enlarged_for_the_encoder(toy_head: HeadAssets, config: ModelConfig) -> None:
    head = config.head.model_copy(update={"encoder_input": 96})
    tdmm = Tdmm(config.model_copy(update={"head": head}), toy_head)
    seen: list[torch.Size] = []
    tdmm.encoder.model.features.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    tdmm(_images())
    assert seen == [(2, 3, 96, 96)]


def test_landmarks_need_no_whole_head(tdmm: Tdmm) -> None:
    code = _with_output(tdmm)(_images(4)).code.detach()
    code.rotation[:, 1] = torch.tensor([-0.5, -0.1, 0.2, 0.6])  # the contour slides
    wanted = landmarks_px(tdmm.geometry(code), 64)
    torch.testing.assert_close(tdmm.landmarks(code), wanted, atol=1e-4, rtol=0)
    assert wanted.std(dim=0).max() > 0.1
    names = set(tdmm.state_dict())
    state = {name: value.clone() for name, value in tdmm.state_dict().items()}
    state["flame.v_template"][:, 1] *= 1.2
    tdmm.load_state_dict(state)  # another head, other landmarks
    assert set(state) == names
    torch.testing.assert_close(tdmm.landmarks(code), landmarks_px(tdmm.geometry(code), 64), atol=1e-4, rtol=0)
    assert (tdmm.landmarks(code) - wanted).abs().max() > 0.1


def test_landmarks_of_the_built_in_head_take_few_vertices() -> None:
    head = HeadModel(load_head_assets(HeadConfig()))
    few = head_of_landmarks(head)
    assert len(few.v_template) < len(head.v_template) / 4
    code = HeadCode(
        *(0.3 * torch.randn(3, size) for size in (100, 50, 3, 3)), torch.full((3, 1), 9.0), torch.zeros(3, 2)
    )
    torch.testing.assert_close(few(code).landmarks, head(code).landmarks, atol=1e-5, rtol=0)
    torch.testing.assert_close(few(code).landmarks3d, head(code).landmarks3d, atol=1e-5, rtol=0)


def test_features_can_keep_their_place(toy_head: HeadAssets, config: ModelConfig) -> None:
    head = config.head.model_copy(
        update={"spatial_channels": 4, "encoder_strides": (1, 1, 2, 2, 1, 2, 1), "dropout": 0.0}
    )
    tdmm = Tdmm(config.model_copy(update={"head": head}), toy_head).eval()
    placed = tdmm.encoder.placed
    assert placed is not None
    assert torch.equal(tdmm(_images()).raw, torch.zeros(2, 159))  # the average head, as without it
    nn.init.normal_(placed.linear.weight)
    nn.init.normal_(tdmm.encoder.fc.weight)
    maps = torch.rand(1, 1280, 4, 4)
    turned = maps.rot90(1, (2, 3))
    estimates = []
    for each in (maps, turned):
        tdmm.encoder.model.features.forward = lambda _, each=each: each  # type: ignore[assignment]
        estimates.append(tdmm(_images(1)))
    torch.testing.assert_close(estimates[0].feature, estimates[1].feature)
    assert (estimates[0].raw - estimates[1].raw).abs().max() > 0.1


def test_loading_another_layout_lays_out_its_texels(tdmm: Tdmm) -> None:
    state = {name: value.clone() for name, value in tdmm.state_dict().items()}
    state["uvcoords"][..., :2] *= 0.5
    before = tdmm.texel_face_index.clone()
    tdmm.load_state_dict(state)
    assert (tdmm.texel_face_index >= 0).sum() < 0.5 * (before >= 0).sum()
    assert not any("texel" in name for name in tdmm.state_dict())


def test_a_copy_loads_for_itself(tdmm: Tdmm) -> None:
    state = {name: value.clone() for name, value in tdmm.state_dict().items()}
    state["uvcoords"][..., :2] *= 0.5
    before = tdmm.texel_face_index.clone()
    copy.deepcopy(tdmm).load_state_dict(state)
    assert torch.equal(tdmm.texel_face_index, before)


def test_estimating_leaves_the_image_alone(tdmm: Tdmm) -> None:
    images = _images()
    kept = images.clone()
    tdmm(images)
    assert torch.equal(images, kept)


def test_names_order_and_shapes_are_the_released_ones(golden: Path, toy_head: HeadAssets) -> None:
    released = json.loads((golden / "state_dict_keys.json").read_text())["tdmm"]
    ours = Tdmm(ModelConfig(head=HeadConfig()), toy_head).state_dict()
    assert list(ours) == list(released)
    sizes = {5023: toy_head.num_vertices, 9976: toy_head.num_faces, 5118: len(toy_head.uv_coords)}
    sizes[3 * 5023] = 3 * toy_head.num_vertices
    for name, (shape, dtype) in released.items():
        assert list(ours[name].shape) == [sizes.get(side, side) for side in shape], name
        assert str(ours[name].dtype) == f"torch.{dtype}", name
