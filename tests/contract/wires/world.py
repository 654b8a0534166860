"""A tiny world that all wire tests share: a model, photos, videos, clips, and fakes of what is not here."""

from __future__ import annotations

import copy
import importlib.machinery
import sys
import types
import wave
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import yaml
from PIL import Image
from torch import nn

from safa.checkpoint.native import ModelInfo, save_model
from safa.config import ModelConfig, parse_settings
from safa.data.video import write_video
from safa.head.assets import HeadAssets
from safa.models.discriminator import MultiScaleDiscriminator
from safa.models.safa import Safa
from tests.conftest import GLASS, MODEL, _clip_row, _write_clips

FRAMES = 7  # of the driving inputs
RED, BLUE = (200, 30, 30), (30, 30, 200)


class World:
    """Made once for all tests; nothing in it is changed by a test.

    Args:
        folder: empty.
        head: a small head, and ``head_file`` where it is saved.
        clips: the shared data set of four clips.
    """

    def __init__(self, folder: Path, head: HeadAssets, head_file: Path, clips: Path) -> None:
        self.root, self.head, self.head_file, self.clips = folder, head, head_file, clips
        (folder / "none").mkdir(exist_ok=True)  # a folder of assets without any
        self._count = 0
        self.kept: dict[Any, Any] = {}

    def folder(self) -> Path:
        """A new, empty folder."""
        self._count += 1
        path = self.root / f"folder-{self._count:04d}"
        path.mkdir()
        return path

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What ``make`` gave the first time."""
        if key not in self.kept:
            self.kept[key] = make()
        return self.kept[key]

    # ---- models --------------------------------------------------------------------------------------------

    def model_settings(self, **changes: Any) -> dict[str, Any]:
        """The ``model`` section of a config, 32 px, with four keypoints, which span an area."""
        data = copy.deepcopy(MODEL) | {"num_keypoints": 4} | changes
        data["head"] = {"assets": str(self.head_file)} | data["head"]
        return data

    def make_model(self, **changes: Any) -> Safa:
        """Random weights. Its BatchNorms have seen noise, or every picture would come out the same grey."""
        torch.manual_seed(0)
        model = Safa(parse_settings(self.model_settings(**changes), ModelConfig, "test"), self.head)
        nn.init.normal_(model.tdmm.encoder.fc.weight, std=0.005)
        nn.init.normal_(model.kp_detector.jacobian.weight, std=0.05)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the statistics of all passes
        model.train()
        with torch.no_grad():
            for _ in range(2):
                images = torch.rand(4, 3, 32, 32)
                model.reenact(model.prepare_source(images), model.analyse(images.flip(0)))
        return model.eval()

    @cached_property
    def model(self) -> Safa:
        return self.make_model()

    @cached_property
    def checkpoint(self) -> Path:
        return self._saved(self.model, "model")

    @cached_property
    def other_checkpoint(self) -> Path:
        """Of three keypoints."""
        return self._saved(self.make_model(num_keypoints=3), "other-model")

    @cached_property
    def twisted_checkpoint(self) -> Path:
        """Whose 3DMM says something else."""
        model = self.make_model()
        nn.init.normal_(model.tdmm.encoder.fc.weight, std=0.006)
        return self._saved(model, "twisted-model")

    @cached_property
    def released(self) -> Path:
        """A checkpoint in the released layout, and ``model.yaml`` with its sizes beside it."""
        model, folder = self.model, self.folder()
        networks = {
            "generator": model.generator,
            "kp_detector": model.kp_detector,
            "discriminator": MultiScaleDiscriminator(model.config),
            "tdmm": model.tdmm,
        }
        states: dict[str, Any] = {name: network.state_dict() for name, network in networks.items()}
        torch.save(states | {"epoch": 50}, folder / "released.pth.tar")
        (folder / "model.yaml").write_text(yaml.safe_dump({"model": self.model_settings()}))
        return folder / "released.pth.tar"

    def _saved(self, model: Safa, name: str) -> Path:
        save_model(self.root / name, model, ModelInfo("full", model.config, 5, name))
        return self.root / name

    # ---- photos and videos ---------------------------------------------------------------------------------

    def picture(self, colour: tuple[int, int, int], size: tuple[int, int] = (40, 50), seed: int = 0) -> Any:
        """Noise (H, W, 3) of a colour."""
        noise = np.random.default_rng(seed).integers(-25, 25, (*size, 3))
        return np.clip(noise + np.array(colour), 0, 255).astype(np.uint8)

    def photo(self, colour: tuple[int, int, int]) -> Path:
        path = self.root / f"photo-{colour[0]}.png"
        if not path.exists():
            Image.fromarray(self.picture(colour)).save(path)
        return path

    @cached_property
    def red(self) -> Path:
        return self.photo(RED)

    @cached_property
    def blue(self) -> Path:
        return self.photo(BLUE)

    def pictures_folder(self, colour: tuple[int, int, int]) -> Path:
        """Seven pictures that drive."""
        folder = self.root / f"driving-{colour[0]}"
        if not folder.exists():
            folder.mkdir()
            for n in range(FRAMES):
                Image.fromarray(self.picture(colour, seed=10 + n)).save(folder / f"{n}.png")
        return folder

    @cached_property
    def alike(self) -> Path:
        """A folder of pictures whose fifth is the red photo."""
        folder = self.root / "alike"
        folder.mkdir()
        for n in range(FRAMES):
            seed = 0 if n == 4 else 100 + n
            Image.fromarray(self.picture(RED if n == 4 else BLUE, seed=seed)).save(folder / f"{n}.png")
        return folder

    def _video(self, name: str, fps: float, sound: Path | None = None) -> Path:
        path = self.root / name
        frames = [self.picture(RED, (48, 64), seed=20 + n) for n in range(FRAMES)]
        write_video(path, iter(frames), fps, sound_from=sound)
        return path

    @cached_property
    def video(self) -> Path:
        """Seven frames at 12.5 a second, of 64 x 48 px, with sound."""
        sound = self.root / "sound.wav"
        with wave.open(str(sound), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(np.random.default_rng(0).integers(-9000, 9000, 8000, np.int16).tobytes())
        return self._video("video.mp4", 12.5, sound)

    @cached_property
    def known_photo(self) -> Path:
        """A photo with landmarks beside it."""
        path = self.root / "known-photo.png"
        Image.fromarray(self.picture(RED)).save(path)
        np.save(path.with_suffix(".landmarks.npy"), face(30, 22, 10)[None])
        return path

    @cached_property
    def known_video(self) -> Path:
        """The video with landmarks beside it: the face's middle goes from x = 30 to 36 px."""
        path = self._video("known.mp4", 12.5)
        points = np.stack([face(30 + n, 24, 12) for n in range(FRAMES)])
        np.save(path.with_suffix(".landmarks.npy"), points)
        return path

    # ---- weights that are not here -------------------------------------------------------------------------

    @cached_property
    def parser_file(self) -> Path:
        """A face parser that has learned nothing."""
        from safa.models.face_parser import FaceParser

        path = self.root / "parser.pth"
        torch.save(FaceParser().state_dict(), path)
        return path

    @cached_property
    def detector_folder(self) -> Path:
        """What looks like BlazeFace's weights."""
        folder = self.root / "detector"
        folder.mkdir()
        torch.save({"weight": torch.zeros(1)}, folder / "blazefaceback.pth")
        (folder / "anchorsback.npy").write_bytes(b"x")
        return folder

    # ---- clips ---------------------------------------------------------------------------------------------

    @cached_property
    def faces(self) -> Path:
        """Test clips of two people whose faces change shape: frame 3 of one is like frame 0 of the other."""
        rows = []
        for person, like in (("eve", 0), ("gus", 3)):
            row = _clip_row(person, "test")
            shapes = [face(16, 16, 12, high=1.0 + 0.2 * ((n - like) % 6)).ravel() for n in range(6)]
            rows.append(row | {"landmarks": shapes})
        return _write_clips(self.folder(), rows)


def face(x: float, y: float, size: float, *, high: float = 1.0) -> Any:
    """68 points whose box is ``size`` px wide and ``high`` times as high, around a place."""
    angle = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    points = np.stack([x + size / 2 * np.cos(angle), y + high * size / 2 * np.sin(angle)], 1)
    return points.astype(np.float32)


# ---- packages that may not be installed -------------------------------------------------------------------


class Recorder:
    """Anything that can be called; remembers with what."""

    def __init__(self, result: Any = None) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._result = result

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.calls.append((arguments, options))
        return self._result

    @property
    def first(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self.calls[0]


def fake_module(name: str, **content: Any) -> types.ModuleType:
    """A module for ``sys.modules`` that ``find_spec`` finds, too."""
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__path__ = []  # a package
    vars(module).update(content)
    return module


class FakeFan(nn.Module):
    """In place of the landmark network: 68 maps of 4 x 4, by an image's mean."""

    def __init__(self, num_hourglasses: int = 4) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))
        self.passes = 0

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        self.passes += 1
        return [self.gain * image.mean(dim=(1, 2, 3))[:, None, None, None].expand(-1, 68, 4, 4)]


@contextmanager
def face_alignment(faces: list[list[float]] | None = None) -> Iterator[list[dict[str, Any]]]:
    """The package, with detectors that remember their settings and see the same faces in every frame."""
    made: list[dict[str, Any]] = []

    def detector_module(name: str) -> types.ModuleType:
        class FaceDetector:
            reference_scale = 195

            def __init__(self, **settings: Any) -> None:
                self.settings: dict[str, Any] = {"module": name, "batches": []} | settings
                made.append(self.settings)

            def detect_from_batch(self, batch: Any) -> list[Any]:
                self.settings["batches"].append(len(batch))
                return [faces or [] for _ in batch]

        return fake_module(f"face_alignment.detection.{name}", FaceDetector=FaceDetector)

    tools = {
        "CENTER_Y_OFFSET": 0.1,
        "crop": lambda frame, centre, scale: np.asarray(Image.fromarray(frame).resize((8, 8))),
        "flip": lambda image, is_label=False: image.flip(-1),
        "get_preds_fromhm": lambda maps, centre, scale: (None, np.full((1, 68, 2), scale, np.float32)),
    }
    modules = {
        "face_alignment": fake_module("face_alignment"),
        "face_alignment.detection": fake_module("face_alignment.detection"),
        "face_alignment.models": fake_module("face_alignment.models", FAN=FakeFan),
        "face_alignment.utils": fake_module("face_alignment.utils", **tools),
    }
    for name in ("sfd", "blazeface", "retinaface", "yunet", "scrfd"):
        modules[f"face_alignment.detection.{name}"] = detector_module(name)
    with patch.dict(sys.modules, modules):
        yield made


@contextmanager
def yt_dlp() -> Iterator[list[dict[str, Any]]]:
    """The package, with a downloader that remembers its options and pages, and writes nothing."""
    made: list[dict[str, Any]] = []

    class YoutubeDL:
        def __init__(self, options: Mapping[str, Any]) -> None:
            self._options = {**options, "pages": []}
            made.append(self._options)

        def __enter__(self) -> YoutubeDL:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def download(self, pages: list[str]) -> None:
            self._options["pages"] += pages
            Path(self._options["outtmpl"]).write_bytes(b"x")

    class YoutubeDLError(Exception):
        pass

    utils = types.SimpleNamespace(YoutubeDLError=YoutubeDLError)
    modules = {"yt_dlp": fake_module("yt_dlp", YoutubeDL=YoutubeDL, utils=utils)}
    whole = patch("safa.data.download.ytdlp.checked", lambda library, page: library.YoutubeDL)
    with patch.dict(sys.modules, modules), whole:
        yield made


__all__ = [
    "BLUE",
    "FRAMES",
    "GLASS",
    "RED",
    "FakeFan",
    "Recorder",
    "World",
    "face",
    "face_alignment",
    "yt_dlp",
]
