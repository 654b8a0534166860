"""Settings of inference and evaluation."""

from __future__ import annotations

from typing import Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from safa.config.loader import Settings
from safa.config.tracking import TrackingConfig
from safa.files import Location

RasterizerChoice = Literal["auto", "native", "pytorch3d"]
PrecisionChoice = Literal["auto", "float32", "bfloat16", "float16"]
Mode = Literal["reconstruction", "animation", "swap", "mesh"]

# The face parser's classes in the order of its output.
FaceClass = Literal[
    "background",
    "skin",
    "left_brow",
    "right_brow",
    "left_eye",
    "right_eye",
    "glasses",
    "left_ear",
    "right_ear",
    "earring",
    "nose",
    "mouth",
    "upper_lip",
    "lower_lip",
    "neck",
    "necklace",
    "cloth",
    "hair",
    "hat",
]
FACE_CLASS_NAMES: tuple[FaceClass, ...] = get_args(FaceClass)


class TransferConfig(Settings):
    """How the driving motion is put on the source."""

    mode: Literal["absolute", "relative"] = "relative"
    adapt_scale: bool = False  # scale the keypoints' way by the size of the two faces
    best_frame: bool = False  # measure from the driving frame most like the source, not from the first

    @model_validator(mode="after")
    def _only_relative_motion_has_a_reference(self) -> Self:
        if self.mode == "absolute" and (self.adapt_scale or self.best_frame):
            raise ValueError("adapt_scale and best_frame need mode: relative")
        return self


class AnimationConfig(Settings):
    """Which sources are animated by which drivers: pairs of clips, for modes animation and swap."""

    csv: Location | None = None  # columns source, driving: clip ids; None = drawn, of different people
    pairs: int = Field(default=6, ge=1)  # at most, if drawn; fewer if there are not so many
    seed: int = Field(default=0, ge=0)  # of the draw
    transfer: TransferConfig = TransferConfig()


# The published face swap: the whole face with ears and neck.
WHOLE_FACE: tuple[FaceClass, ...] = FACE_CLASS_NAMES[1:16]


class SwapConfig(Settings):
    """Face swap: where in the driving clip the source's face goes."""

    # Of the face parser (BiSeNet, 19 classes), .pth or .safetensors; None = the face of the fitted 3D head.
    weights: Location | None = None
    classes: tuple[FaceClass, ...] | None = Field(default=None, min_length=1)  # None = WHOLE_FACE
    hard: bool = False  # mask thresholded at 0.5 instead of soft
    # Draw the source's head shape: nearer to the person in the photo, but its outline need not fill the place
    # of the driving face. The reference draws the driving frame's own.
    source_shape: bool = False

    @model_validator(mode="after")
    def _only_a_parser_knows_classes(self) -> Self:
        if self.classes is not None and self.weights is None:
            raise ValueError("classes need weights of a face parser")
        return self


class MeshConfig(Settings):
    """3D reconstruction: what is written beside the table of every frame."""

    export: tuple[Literal["obj", "ply"], ...] = ()  # files for other programs; obj with texture
    export_frames: int = Field(default=1, ge=1)  # of a clip, evenly spaced


class ScorerConfig(Settings):
    """Networks that metrics need. None: the metrics that need it are reported as skipped."""

    # 68 points of an image: "dlib"; "fan", face-alignment's, if its weights are in a folder of assets; a
    # TorchScript file; or "model": the evaluated model's own 3DMM, whose numbers compare only between
    # evaluations of one model.
    landmarks: Literal["dlib", "fan", "model"] | Location | None = None
    landmarks_every: int = Field(default=1, ge=1)  # frames; 2: every second frame is scored
    identity: Literal["dlib"] | Location | None = None  # or TorchScript: images to embeddings
    identity_every: int = Field(default=1, ge=1)  # frames
    lpips: Location | None = None  # AlexNet's ImageNet weights in torchvision's names, .pth or .safetensors
    inception: Location | None = None  # TorchScript, as published with StyleGAN2-ADA: inception-2015-12-05.pt


class VisualsConfig(Settings):
    """Videos and strips of the report."""

    panel: int = Field(default=192, ge=32)  # px; smaller images are enlarged to at least this side
    strip_frames: int = Field(default=4, ge=2)  # rows of a strip, evenly spaced over the clip
    crf: int = Field(default=20, ge=0, le=51)  # H.264 quality: 0 lossless, 23 usual, 51 worst


class ReportConfig(Settings):
    """What the report shows."""

    # Clips with a video and a strip, drawn at random, as many of each mode; scores are of all. None = all.
    videos: int | None = Field(default=200, ge=0)


class EvaluateScale(Settings):
    """Machines. The numbers do not depend on them."""

    # Least and most; each holds one model. None: as many as cores or GPUs have room for (safa/cores.py).
    actors: tuple[int, int] | None = None
    cpus_per_actor: float = Field(default=1.0, gt=0)  # reserved in Ray; leave some free for Ray itself
    gpus_per_actor: float = Field(default=0.0, ge=0)  # a share of one GPU is fine
    threads_per_actor: int = Field(default=1, ge=1)  # torch's own threads
    batch_size: int = Field(default=8, ge=1)  # driving frames at once; halved while a GPU cannot hold so many
    window: int = Field(default=128, ge=2)  # frames of a clip that one worker takes at a time
    cpus_per_task: float = Field(default=1.0, gt=0)  # of what reads, scores and writes beside GPUs

    @field_validator("actors")
    @classmethod
    def _range(cls, actors: tuple[int, int] | None) -> tuple[int, int] | None:
        if actors is not None and not 1 <= actors[0] <= actors[1]:
            raise ValueError("must be [least, most] actors, at least 1")
        return actors


class EvaluateConfig(Settings):
    """One evaluation. ``out`` is the report: ``index.html`` with everything it shows beside it."""

    model: Location  # run folder of the full stage, its model/ or a checkpoint
    clips: Location  # the folder clips/ that pipelines/preprocess wrote
    splits: tuple[Literal["train", "test"], ...] = Field(default=("test",), min_length=1)
    out: Location
    title: str = "SAFA evaluation"
    modes: tuple[Mode, ...] = Field(default=("reconstruction", "animation"), min_length=1)
    frames: int | None = Field(default=None, ge=2)  # of a clip at most, from its start; None = all
    # auto: bfloat16 on machines that are fast at it, so that scores depend on the machine.
    precision: PrecisionChoice = "float32"  # of the model's convolutions; positions and renders keep float32
    rasterizer: RasterizerChoice = "auto"  # auto: what the model was trained with, where that is installed
    animation: AnimationConfig = AnimationConfig()
    swap: SwapConfig = SwapConfig()
    mesh: MeshConfig = MeshConfig()
    scorers: ScorerConfig = ScorerConfig()
    visuals: VisualsConfig = VisualsConfig()
    report: ReportConfig = ReportConfig()
    history: tuple[Location, ...] = ()  # training runs whose settings and curves the report shows, in order
    max_unexpected: float = Field(default=0.1, ge=0, le=1)  # share of `unexpected` results that fails the run
    tracking: TrackingConfig = TrackingConfig()
    scale: EvaluateScale = EvaluateScale()

    @model_validator(mode="after")
    def _float16_needs_a_gpu(self) -> Self:
        if self.precision == "float16" and self.scale.gpus_per_actor == 0:
            raise ValueError("precision: float16 needs scale.gpus_per_actor")
        return self
