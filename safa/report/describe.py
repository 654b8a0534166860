"""Settings that decide what the numbers of a report mean, described in words."""

from __future__ import annotations

from safa.config.inference import WHOLE_FACE, EvaluateConfig, ScorerConfig, SwapConfig
from safa.config.losses import PerceptualConfig
from safa.config.model import HeadConfig, ModelConfig
from safa.config.training import FullStage, HeadStage, TrainConfig
from safa.files import Location, name_of


def describe_model(config: ModelConfig) -> tuple[str, ...]:
    """Describe the model's size and where its parts come from."""
    head = config.head
    return (
        f"Images: {config.image_size} x {config.image_size} px (published: 256 x 256).",
        f"Generator: {config.generator.block_expansion} base channels (published: 64), "
        f"{config.num_keypoints} keypoints.",
        "3D head: the built-in one." if head.assets is None else f"3D head: {name_of(head.assets)}.",
        _encoder(head),
    )


def describe_training(config: TrainConfig) -> tuple[str, ...]:
    """Describe one stage of training: how long, with which batch, and with which stand-ins."""
    workers = config.scale.num_workers
    count = 1 if workers == "auto" else max(1, workers)
    batch = sum(config.data.batches_of(count)) * config.step.accumulate
    length = f"{config.schedule.length} {config.schedule.unit}, batch {batch}."
    if isinstance(config.stage, HeadStage):
        return (f"3DMM only: {length}",)
    return (f"All networks: {length}", *_full_stage(config.stage))


def describe_evaluation(config: EvaluateConfig) -> tuple[str, ...]:
    """Describe what was evaluated and how."""
    held_out = config.splits == ("test",)
    people = "people held out from training" if held_out else "including people of the training set"
    lines = [f"Clips: split {' and '.join(config.splits)} ({people})."]
    if config.frames is not None:
        lines.append(f"Only the first {config.frames} frames of each clip.")
    if "reconstruction" in config.modes:
        lines.append(
            "Reconstruction: the first frame of a clip is the source; its other frames drive and are scored."
        )
    if {"animation", "swap"} & set(config.modes):
        drawn = f"drawn with seed {config.animation.seed}"
        pairs = drawn if config.animation.csv is None else f"from {name_of(config.animation.csv)}"
        lines.append(f"Pairs of source and driving clip: {pairs}.")
    if "animation" in config.modes:
        transfer = config.animation.transfer
        motion = [f"{transfer.mode} motion"]
        motion += ["scaled to the size of the face"] if transfer.adapt_scale else []
        if transfer.mode == "relative":
            frame = "the best frame" if transfer.best_frame else "the first frame with a face"
            motion.append(f"measured from {frame}")
        lines.append(f"Animation: one person driven by another, {', '.join(motion)}.")
    if "swap" in config.modes:
        lines.append(f"Face swap: absolute motion, {_mask(config.swap)}.")
    if "mesh" in config.modes:
        lines.append("3D reconstruction: parameters, landmarks and vertices of every frame.")
    if config.precision == "auto":
        lines.append("Convolutions run in bfloat16 on machines that are fast at it, else in float32.")
    elif config.precision != "float32":
        lines.append(f"Convolutions run in {config.precision}.")
    return (*lines, *_scorers(config.scorers))


def _mask(config: SwapConfig) -> str:
    edge = "hard" if config.hard else "soft"
    if config.weights is None:
        return f"{edge} mask of the face of the 3D head fitted to the driving frame"
    classes = ", ".join(name.replace("_", " ") for name in config.classes or WHOLE_FACE)
    return f"{edge} mask of {classes} by {name_of(config.weights)}"


def _scorers(config: ScorerConfig) -> list[str]:
    """Name every network, since scores by different networks cannot be compared."""
    lines = []
    if config.landmarks == "model":
        lines.append(
            "AKD: landmarks by the model's own 3DMM; comparable only between evaluations of this model."
        )
    elif config.landmarks is not None:
        lines.append(
            f"AKD and expression: landmarks by {_network(config.landmarks)}{_each(config.landmarks_every)}."
        )
    if config.identity is not None:
        lines.append(f"AED and CSIM: identity by {_network(config.identity)}{_each(config.identity_every)}.")
    if config.lpips is not None:
        lines.append(f"LPIPS: AlexNet from {name_of(config.lpips)}.")
    if config.inception is not None:
        lines.append(f"FID: features by {name_of(config.inception)}.")
    return lines


def _network(name: Location) -> str:
    known = {"dlib": "dlib (face-recognition-models)", "fan": "face-alignment (FAN)"}
    return known.get(str(name)) or name_of(name)


def _each(every: int) -> str:
    return "" if every == 1 else f", of one frame in {every}"


def _encoder(head: HeadConfig) -> str:
    width = "" if head.encoder_width == 1 else f", {head.encoder_width:g} of the published width"
    published = HeadConfig()
    if (head.encoder_blocks, head.encoder_strides) != (published.encoder_blocks, published.encoder_strides):
        width += ", of another depth"
    start = "random start, no ImageNet weights" if head.encoder_weights is None else "ImageNet start"
    return f"3DMM encoder: {start}{width}."


def _full_stage(stage: FullStage) -> tuple[str, ...]:
    weights = stage.losses.weights
    discriminator = "on" if weights.needs_discriminator else "off"
    average = "" if stage.ema_decay is None else f" Weights averaged (decay {stage.ema_decay:g} per step)."
    return (
        _perceptual(stage.losses.perceptual) if weights.perceptual else "Perceptual loss: off.",
        f"Discriminator: {discriminator}.{average}",
    )


def _perceptual(config: PerceptualConfig) -> str:
    if config.backend == "vgg19":
        return "Perceptual loss: VGG19 features."
    if config.backend == "efficientnet_lite0":
        return "Perceptual loss: pixels, and features of EfficientNet-Lite0 in VGG19's place."
    return f"Perceptual loss: {config.backend} stand-in, no VGG19 weights."
