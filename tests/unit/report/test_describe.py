from __future__ import annotations

from pathlib import Path
from typing import Any

from safa.config import ModelConfig, parse_settings
from safa.config.inference import EvaluateConfig
from safa.config.model import HeadConfig
from safa.config.training import TrainConfig
from safa.report.describe import describe_evaluation, describe_model, describe_training


def training(stage: dict[str, Any], **changes: Any) -> str:
    settings = {
        "name": "x",
        "data": {"clips": "c", "batch_size": 4},
        "stage": stage,
        "schedule": {"unit": "steps", "length": 700},
        "checkpoint": {"every": 1},
        **changes,
    }
    return "\n".join(describe_training(parse_settings(settings, TrainConfig, "test")))


def evaluation(**changes: Any) -> str:
    settings = {"model": "m", "clips": "c", "out": "o", **changes}
    return "\n".join(describe_evaluation(parse_settings(settings, EvaluateConfig, "test")))


def test_stand_ins_are_named() -> None:
    assert "pixel_pyramid stand-in, no VGG19 weights" in training({"kind": "full"})
    assert "random start, no ImageNet weights" in "\n".join(describe_model(ModelConfig()))


def test_weights_are_named() -> None:
    perceptual = {"backend": "vgg19", "weights": "vgg.pth"}
    assert "VGG19 features" in training({"kind": "full", "losses": {"perceptual": perceptual}})
    perceptual = {"backend": "efficientnet_lite0"}
    assert "features of EfficientNet-Lite0" in training(
        {"kind": "full", "losses": {"perceptual": perceptual}}
    )
    head = HeadConfig(assets=Path("flame2020.npz"), encoder_weights=Path("w.pth"), encoder_width=0.35)
    words = "\n".join(describe_model(ModelConfig(head=head)))
    assert "3D head: flame2020.npz" in words
    assert "ImageNet start, 0.35 of the published width" in words


def test_what_is_off_is_said_to_be_off() -> None:
    weights = {"perceptual": 0.0, "generator_gan": 0.0, "feature_matching": 0.0}
    words = training({"kind": "full", "losses": {"weights": weights}})
    assert "Perceptual loss: off" in words
    assert "Discriminator: off" in words


def test_the_batch_is_that_of_all_workers() -> None:
    words = training({"kind": "head"}, scale={"num_workers": 2}, step={"accumulate": 3})
    assert words == "3DMM only: 700 steps, batch 24."


def test_whether_people_were_held_out_is_said() -> None:
    assert "held out" in evaluation()
    assert "including people of the training set" in evaluation(splits=["train", "test"])


def test_the_way_of_animation_is_said() -> None:
    words = evaluation(animation={"transfer": {"adapt_scale": True, "best_frame": True}}, frames=20)
    assert "relative motion, scaled to the size of the face, measured from the best frame" in words
    assert "first 20 frames" in words
    assert "Animation" not in evaluation(modes=["reconstruction"])


def test_scorers_are_named() -> None:
    words = evaluation(scorers={"landmarks": "model", "identity": "nets/arcface.pt", "lpips": "alexnet.pth"})
    assert "the model's own 3DMM; comparable only between evaluations of this model" in words
    assert "AED and CSIM: identity by arcface.pt." in words
    assert "LPIPS: AlexNet from alexnet.pth." in words
    assert "FID" not in words


def test_swaps_pairs_and_meshes_are_described() -> None:
    swap = {"weights": "w/bisenet.pth", "classes": ["skin", "upper_lip"], "hard": True}
    words = evaluation(modes=["swap", "mesh"], swap=swap, animation={"csv": "lists/pairs.csv"})
    assert "Face swap: absolute motion, hard mask of skin, upper lip by bisenet.pth." in words
    assert "Pairs of source and driving clip: from pairs.csv." in words
    assert "3D reconstruction" in words
    assert "drawn with seed 3" in evaluation(animation={"seed": 3})
