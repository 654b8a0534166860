"""Every size and setting of the networks changes what it says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from safa.config import ModelConfig, parse_settings
from safa.errors import UserError
from safa.head import load_head_assets, raster
from safa.models import tdmm as tdmm_module
from safa.models.attention import ContextualAttention
from safa.models.discriminator import MultiScaleDiscriminator
from safa.models.generator import Generator
from safa.models.keypoints import KeypointDetector
from safa.models.safa import Safa
from safa.models.tdmm import Tdmm
from tests.contract.wires.table import ABSENT, Row, Table, are, check, differ, keys_of, with_key
from tests.contract.wires.world import GLASS, World


def settings(world: World, key: str, value: Any, changes: dict[str, Any]) -> ModelConfig:
    data = world.model_settings()
    for name, each in (*changes.items(), (key, value)):
        data = with_key(data, name, str(each) if isinstance(each, Path) else each)
    return parse_settings(data, ModelConfig, "test")


def _built(kind: Any, *arguments: Any) -> Any:
    torch.manual_seed(0)
    return kind(*arguments).eval()


def _image(count: int = 2, side: int = 32) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def _tdmm(world: World, config: ModelConfig) -> Tdmm:
    tdmm: Tdmm = _built(Tdmm, config, world.head)
    return tdmm


# ---- the whole


@torch.no_grad()
def sides_of_renders(world: World, config: ModelConfig) -> tuple[int, int]:
    """Of the render and of the texture, px."""
    tdmm = _tdmm(world, config)
    image = _image(1, config.image_size)
    geometry = tdmm.geometry(tdmm.estimate(image).code)
    return tdmm.render_side(geometry).alpha.shape[-1], tdmm.texture(image, geometry).shape[-1]


@torch.no_grad()
def points_and_motions(world: World, config: ModelConfig) -> tuple[int, int, int]:
    """Keypoints, motions of the generator, and channels that the discriminator sees."""
    model = _built(Safa, config, world.head)
    points = model.kp_detector.detect(_image()).value.shape[1]
    motions = model.generator.dense_motion_network.mask.out_channels
    first = next(MultiScaleDiscriminator(config).parameters())
    return points, motions, first.shape[1]


def _discriminated(config: ModelConfig) -> Any:
    discriminator = _built(MultiScaleDiscriminator, config)
    side = config.image_size
    images = [_image(1, int(side * scale)) for scale in config.discriminator.scales]
    return discriminator(images, torch.tensor([[[0.2, 0.3]] * config.num_keypoints]))


@torch.no_grad()
def verdict(world: World, config: ModelConfig) -> Tensor:
    score: Tensor = _discriminated(config)[0].score
    return score


@torch.no_grad()
def heat_of_motions(world: World, config: ModelConfig) -> Tensor:
    """Sum over a picture of the places where the keypoints' motions happen."""
    network = _built(Generator, config).dense_motion_network
    zeros = torch.zeros(1, config.num_keypoints, 2)
    jacobian = torch.eye(2).expand(1, config.num_keypoints, 2, 2)
    from safa.models.keypoints import Keypoints

    maps = network._heat_maps(
        Keypoints(zeros, jacobian), Keypoints(zeros + 0.5, jacobian), torch.zeros(1, 16, 16)
    )
    total: Tensor = maps[:, 1:-1].abs().sum()
    return total


# ---- keypoints and dense motion


def widths(network: nn.Module) -> list[int]:
    return [module.out_channels for module in network.modules() if isinstance(module, nn.Conv2d)]


def _hourglass(world: World, config: ModelConfig) -> list[tuple[nn.Module, int]]:
    """The two hourglasses, and the side of the maps on which each works."""
    with torch.no_grad():
        detector = _built(KeypointDetector, config)
        heat = detector.maps(_image())[0].shape[-1] + 6  # a head of 7 x 7, not padded
        motion = _built(Generator, config).dense_motion_network
        small = motion.down(_image()).shape[-1]
    return [(detector.predictor, heat), (motion.hourglass, small)]


def keypoint_glass(world: World, config: ModelConfig) -> tuple[int, int, int, int]:
    return _glass(*_hourglass(world, config)[0])


def motion_glass(world: World, config: ModelConfig) -> tuple[int, int, int, int]:
    return _glass(*_hourglass(world, config)[1])


def _glass(glass: nn.Module, side: int) -> tuple[int, int, int, int]:
    """Narrowest and widest layer, number of layers, side of its input."""
    found = widths(glass)
    return min(found), max(found), len(found), side


@torch.no_grad()
def largest_keypoint(world: World, config: ModelConfig) -> float:
    """The flatter the heat, the nearer are all points to the middle."""
    detector = _built(KeypointDetector, config)
    nn.init.normal_(detector.kp.weight, std=0.5)
    return float(detector.detect(_image()).value.abs().max())


# ---- the 3D head


def vertices(world: World, config: ModelConfig) -> int:
    return len(load_head_assets(config.head).v_template)


def encoder_layers(world: World, config: ModelConfig) -> tuple[int, int]:
    """Channels of the encoder's first layer, and number of its convolutions."""
    found = widths(_tdmm(world, config).encoder.model.features)
    return found[0], len(found)


@torch.no_grad()
def side_of_features(world: World, config: ModelConfig) -> int:
    features: Tensor = _tdmm(world, config).encoder.model.features(_image())
    return features.shape[-1]


@torch.no_grad()
def side_of_input(world: World, config: ModelConfig) -> int:
    """Of the picture that the encoder's first layer gets."""
    tdmm, sides = _tdmm(world, config), []
    tdmm.encoder.model.features.register_forward_pre_hook(lambda _, given: sides.append(given[0].shape[-1]))
    tdmm.estimate(_image())
    return sides[0]


def placed_channels(world: World, config: ModelConfig) -> int:
    placed = _tdmm(world, config).encoder.placed
    return 0 if placed is None else placed.narrow.out_channels


@torch.no_grad()
def share_dropped(world: World, config: ModelConfig) -> float:
    """Of the 1280 features, in training."""
    tdmm = _tdmm(world, config).train()
    torch.manual_seed(0)
    dropped = tdmm.encoder.model.classifier[0](torch.ones(1, 100_000))
    return round(float((dropped == 0).float().mean()), 2)


def rasteriser(world: World, config: ModelConfig) -> str:
    with patch.object(raster, "find_spec", lambda name: object()):
        return str(_tdmm(world, config)._rasterizer.__name__)


def rasteriser_missing(world: World, config: ModelConfig) -> str:
    with patch.object(raster, "find_spec", lambda name: None):
        try:
            _tdmm(world, config)
        except UserError as error:
            return error.where
    return ""


# ---- generator


def generator_layers(world: World, config: ModelConfig) -> tuple[int, int, int, int]:
    """Channels of the first and the widest layer; numbers of down blocks and of bottleneck blocks."""
    generator = _built(Generator, config)
    down = len(generator.down_blocks)
    return (
        generator.first.conv.out_channels,
        widths(generator.down_blocks)[-1],
        down,
        len(generator.bottleneck),
    )


def encodes_the_render(world: World, config: ModelConfig) -> bool:
    return _built(Generator, config).render_encoder is not None


def shows_the_source(world: World, config: ModelConfig) -> bool:
    return _built(Generator, config).source_share is not None


@torch.no_grad()
def attended(world: World, config: ModelConfig) -> Tensor:
    attention = ContextualAttention(config.generator.attention)
    features = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    result: Tensor = attention(features, features, torch.ones(1, 1, 8, 8))
    return result


@torch.no_grad()
def sharpness(world: World, config: ModelConfig) -> float:
    """A flat softmax gives the mean of all patches: then nothing of the picture's contrast is left."""
    return float(attended(world, config)[..., 2:-2, 2:-2].std())


def taken_side(world: World, config: ModelConfig) -> bool:
    """Whether features of 6 x 6 can be divided by the rate."""
    attention = ContextualAttention(config.generator.attention)
    try:
        attention(torch.rand(1, 3, 6, 6), torch.rand(1, 3, 6, 6), torch.ones(1, 1, 6, 6))
    except ValueError:
        return False
    return True


def attention_of_the_generator(world: World, config: ModelConfig) -> tuple[int, int, float, int]:
    layer = _built(Generator, config).context_atten_layer
    return layer.rate, layer.kernel_size, layer.softmax_scale, layer.fuse_weight.shape[-1]


# ---- discriminator


@torch.no_grad()
def scores(world: World, config: ModelConfig) -> int:
    return len(_discriminated(config))


@torch.no_grad()
def features_of_discriminator(world: World, config: ModelConfig) -> list[int]:
    """Channels after each block."""
    return [feature.shape[1] for feature in _discriminated(config)[0].features]


def _rows() -> Iterator[Row]:
    glasses = {"keypoints.hourglass": keypoint_glass, "generator.dense_motion": motion_glass}
    yield Row("image_size", 32, 64, sides_of_renders, are((32, 16), (64, 16)))
    yield Row("num_keypoints", 4, 3, points_and_motions, are((4, 6, 7), (3, 5, 6)))
    yield Row("keypoint_variance", 0.01, 0.05, verdict, differ)
    yield Row("keypoint_variance", 0.01, 0.05, heat_of_motions, lambda a, b: b > 2 * a > 0)
    for name, look in glasses.items():
        yield Row(f"{name}.block_expansion", 4, 2, look, lambda a, b: (a[0], b[0]) == (4, 2))
        yield Row(f"{name}.num_blocks", 2, 1, look, lambda a, b: (a[2], b[2]) == (4, 2))
        yield Row(f"{name}.max_features", 8, 6, look, lambda a, b: (a[1], b[1]) == (8, 6))
        yield Row(f"{name}.scale_factor", 0.5, 1.0, look, lambda a, b: (a[3], b[3]) == (16, 32))
    yield Row("keypoints.temperature", 0.1, 1e6, largest_keypoint, lambda a, b: a > 0.05 and b < 1e-5)
    yield Row("head.assets", lambda w: w.head_file, ABSENT, vertices, lambda a, b: a == 98 and b > 1000)
    yield Row("head.encoder_width", 0.1, 1.0, encoder_layers, lambda a, b: a[0] == 8 and b[0] == 32)
    yield Row(
        *("head.encoder_blocks", [1, 2, 3, 4, 3, 3, 1], [1, 1, 3, 4, 3, 3, 1], encoder_layers),
        lambda a, b: a[1] - b[1] == 3,  # one inverted bottleneck
    )
    yield Row(
        *("head.encoder_strides", [1, 2, 2, 2, 1, 2, 1], [1, 1, 1, 2, 1, 2, 1], side_of_features),
        are(1, 4),
    )
    yield Row("head.encoder_input", None, 48, side_of_input, are(32, 48))
    yield Row("head.spatial_channels", 0, 5, placed_channels, are(0, 5))
    yield Row("head.dropout", 0.2, 0.5, share_dropped, are(0.2, 0.5))
    yield Row("head.uv_size", 16, 24, sides_of_renders, are((32, 16), (32, 24)))
    yield Row("head.rasterizer", "native", "pytorch3d", rasteriser, are("rasterize", "rasterize_pytorch3d"))
    yield Row("head.rasterizer", "native", "pytorch3d", rasteriser_missing, are("", "rasterizer"))
    yield Row("generator.block_expansion", 4, 2, generator_layers, are((4, 8, 2, 1), (2, 8, 2, 1)))
    yield Row("generator.max_features", 8, 12, generator_layers, are((4, 8, 2, 1), (4, 12, 2, 1)))
    yield Row("generator.num_down_blocks", 2, 1, generator_layers, are((4, 8, 2, 1), (4, 8, 1, 1)))
    yield Row("generator.num_bottleneck_blocks", 1, 3, generator_layers, are((4, 8, 2, 1), (4, 8, 2, 3)))
    yield Row("generator.render_features", False, True, encodes_the_render, are(False, True))
    yield Row("generator.source_pixels", False, True, shows_the_source, are(False, True))
    attention = "generator.attention"
    yield Row(f"{attention}.rate", 2, 4, taken_side, are(True, False))
    yield Row(f"{attention}.kernel_size", 3, 1, attended, differ)
    yield Row(f"{attention}.softmax_scale", 10.0, 1e-6, sharpness, lambda a, b: a > 4 * b)
    yield Row(f"{attention}.fuse_kernel", 3, 1, attended, differ)
    for number, (name, one, other) in enumerate(
        (("rate", 2, 4), ("kernel_size", 3, 1), ("softmax_scale", 10.0, 5.0), ("fuse_kernel", 3, 1))
    ):
        expected = [[2, 3, 10.0, 3], [2, 3, 10.0, 3]]
        expected[1][number] = other
        yield Row(
            *(f"{attention}.{name}", one, other, attention_of_the_generator),
            are(*map(tuple, expected)),
        )
    yield Row("discriminator.scales", [1.0], [1.0, 0.5], scores, are(1, 2))
    yield Row("discriminator.block_expansion", 4, 2, features_of_discriminator, are([8, 8], [4, 8]))
    yield Row("discriminator.num_blocks", 2, 1, features_of_discriminator, are([8, 8], [8]))
    yield Row("discriminator.max_features", 8, 6, features_of_discriminator, are([8, 8], [6, 6]))


def weights_of_encoder(world: World, config: ModelConfig) -> Any:
    """The file that the encoder starts from."""
    loaded: list[Path] = []
    with patch.object(tdmm_module, "load_imagenet_weights", lambda _, path: loaded.append(path)):
        from safa.config.training import TrainConfig
        from safa.training.context import LocalContext
        from safa.training.stages import make_stage

        for kind in ("head", "full"):
            data = {
                "name": "x",
                "model": config.model_dump(mode="json"),
                "data": {"clips": str(world.clips), "batch_size": 2},
                "stage": {"kind": kind},
                "schedule": {"unit": "steps", "length": 1},
                "checkpoint": {"every": 1},
            }
            make_stage(parse_settings(data, TrainConfig, "test"), LocalContext())
    return [path.name for path in loaded]


ENCODER_WEIGHTS = Row(
    *("head.encoder_weights", None, lambda w: w.parser_file, weights_of_encoder),
    are([], ["parser.pth", "parser.pth"]),  # once in each stage
)
TABLE = Table("model", [*_rows(), ENCODER_WEIGHTS], {})
assert GLASS["num_blocks"] == 2  # what the rows of the hourglasses start from


@pytest.mark.parametrize("row", TABLE.rows, ids=lambda row: row.name)
def test_wire(world: World, row: Row) -> None:
    check(world, row, lambda value: row.look(world, settings(world, row.key, value, {})))


def test_every_key_has_a_row() -> None:
    known = list(keys_of(ModelConfig))
    assert len(known) > 30
    assert TABLE.missing(known) == []
    assert TABLE.unknown(known) == []
