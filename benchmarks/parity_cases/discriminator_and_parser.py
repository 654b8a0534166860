"""The networks that take images alone: discriminator and face parser."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from parity_cases.golden import Golden
from parity_cases.hooks import recorded_outputs
from parity_cases.rows import Row, exact, labels
from safa.models.blocks import ImagePyramid
from safa.models.face_parser import INPUT_SIZE, blend_mask, normalise

PYRAMID = (1.0, 0.5, 0.25, 0.125)


def discriminator(golden: Golden) -> Iterator[Row]:
    """Compare on the driving frame and on the recorded prediction: nothing here depends on the renderer."""
    reference = golden.arrays("discriminator")
    network = golden.discriminator
    pyramid_of = ImagePyramid(PYRAMID)
    generated = torch.from_numpy(golden.arrays("generator")["prediction"])
    for side, image in (("real", golden.driving), ("generated", generated)):
        pyramid = pyramid_of(image)
        for scale, level in zip(PYRAMID[1:], pyramid.images[1:], strict=True):
            key = f"{side}.pyramid.prediction_{scale:g}"
            yield exact("discriminator", key, level.numpy(), reference[key])
        outputs = network(pyramid.at(network.scales), golden.driving_face.keypoints.value)
        for scale, output in zip(network.scales, outputs, strict=True):
            key = f"{side}.prediction_map_{scale:g}"
            yield exact("discriminator", key, output.score.numpy(), reference[key])
            for block, features in enumerate(output.features):
                for statistic, value in _statistics(features).items():
                    key = f"{side}.feature_maps_{scale:g}.{block}.{statistic}"
                    yield exact("discriminator", key, value.numpy(), reference[key])


def _statistics(features: Tensor) -> dict[str, Tensor]:
    return {
        "mean": features.mean((2, 3)),
        "std": features.std((2, 3)),
        "absmean": features.abs().mean((2, 3)),
    }


def face_parser(golden: Golden) -> Iterator[Row]:
    """Compare scores, features and masks of the driving frame."""
    reference = golden.arrays("bisenet")
    # The recorded input was resized by nearest neighbour; ``FaceParser.probabilities`` resizes bilinearly.
    image = F.interpolate(golden.driving, size=(INPUT_SIZE, INPUT_SIZE), mode="nearest")
    with recorded_outputs(golden.parser, ["conv_out", "ffm"]) as outputs:
        logits = golden.parser(image)
    mask = blend_mask(F.softmax(logits.main, dim=1))
    stride8, stride16, stride32 = golden.parser.cp.resnet(normalise(image))
    ours = {
        "logits_s8": logits.main[..., ::8, ::8],
        "logits16_s16": logits.auxiliary16[..., ::16, ::16],
        "logits32_s16": logits.auxiliary32[..., ::16, ::16],
        "conv_out_64": outputs["conv_out"],
        "blend_mask_s4": mask[..., ::4, ::4],
        "feat8_mean": stride8.mean((2, 3)),
        "feat16_mean": stride16.mean((2, 3)),
        "feat32_mean": stride32.mean((2, 3)),
        "ffm_mean": outputs["ffm"].mean((2, 3)),
    }
    for name, tensor in ours.items():
        yield exact("bisenet", name, tensor.numpy(), reference[name])
    yield labels("bisenet", "argmax", logits.main.argmax(dim=1).numpy(), reference["argmax"])
    hard = blend_mask(F.softmax(logits.main, dim=1), hard=True)
    yield labels("bisenet", "hard_mask", hard.numpy(), reference["hard_mask"])
