"""A folder of reference tensors, and the networks filled to match it."""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from parity_cases.borderline_pixels import BorderlinePixels, Toggle
from parity_cases.fill import fill
from safa.config import ModelConfig
from safa.errors import UserError
from safa.head.assets import HeadAssets
from safa.head.flame_files import FlameFiles, read_head_assets
from safa.models.backbones.vgg19 import Vgg19Features
from safa.models.discriminator import MultiScaleDiscriminator
from safa.models.face_parser import FaceParser
from safa.models.safa import FaceState, Safa

Array = NDArray[Any]
Network = TypeVar("Network", bound=nn.Module)


class Golden:
    """One set of reference tensors. Networks are built and filled when first asked for, in eval mode."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "seed.txt").is_file():
            raise UserError("no seed.txt: not a folder of reference tensors", str(folder))
        self.folder = folder
        self.shared = folder.resolve().parent
        self.seed = int((folder / "seed.txt").read_text())
        self.config = ModelConfig()

    def arrays(self, name: str) -> Mapping[str, Array]:
        """One ``.npz`` file of the set."""
        with np.load(self._file(f"{name}.npz"), allow_pickle=False) as content:
            return {key: content[key] for key in content.files}

    def json(self, name: str) -> Any:
        """One ``.json`` file of the set, or else of the files all sets share."""
        own = self.folder / f"{name}.json"
        path = own if own.is_file() else self.shared / f"{name}.json"
        try:
            return json.loads(path.read_text())
        except OSError as error:
            raise UserError(f"cannot read it ({error.strerror})", str(path)) from None

    def has(self, name: str) -> bool:
        """Whether the set holds this file, or all sets share it."""
        return (self.folder / name).is_file() or (self.shared / name).is_file()

    @cached_property
    def assets(self) -> HeadAssets:
        """The synthetic FLAME model, read from files of the real format."""
        folder = self.shared / "assets"
        with tempfile.TemporaryDirectory() as scratch:
            model = Path(scratch) / "generic_model.pkl"
            with gzip.open(folder / "generic_model.pkl.gz") as packed, model.open("wb") as plain:
                shutil.copyfileobj(packed, plain)
            return read_head_assets(
                FlameFiles(model, folder / "head_template.obj", folder / "landmark_embedding.npy", folder)
            )

    @cached_property
    def safa(self) -> Safa:
        """The model of all cases that only evaluate."""
        return self.new_safa(self.config)

    @cached_property
    def toggle(self) -> Toggle:
        """Lets single pixels of all renders be taken the other way."""
        return Toggle()

    def new_safa(self, config: ModelConfig) -> Safa:
        """A filled model of its own, for cases that train."""
        model = Safa(config, self.assets)
        for network in (model.kp_detector, model.tdmm, model.generator):
            fill(network, self.seed)
        model.tdmm.render = BorderlinePixels(model.tdmm, self.toggle)  # type: ignore[method-assign]
        return model.eval()

    @cached_property
    def discriminator(self) -> MultiScaleDiscriminator:
        return self.filled(MultiScaleDiscriminator(self.config))

    @cached_property
    def vgg(self) -> Vgg19Features:
        return self.filled(Vgg19Features())

    @cached_property
    def parser(self) -> FaceParser:
        return self.filled(FaceParser())

    def filled(self, network: Network) -> Network:
        """The network with this set's weights, in eval mode."""
        fill(network, self.seed)
        network.eval()
        return network

    @cached_property
    def source(self) -> Tensor:
        """The source image, (1, 3, 256, 256)."""
        return images(self.arrays("inputs")["source_u8"])

    @cached_property
    def driving_frames(self) -> Tensor:
        """The driving frames, (4, 3, 256, 256)."""
        return images(self.arrays("inputs")["driving_u8"])

    @property
    def driving(self) -> Tensor:
        """The driving frame of the single-frame cases, (1, 3, 256, 256)."""
        return self.driving_frames[:1]

    @cached_property
    def source_face(self) -> FaceState:
        with torch.inference_mode():
            return self.safa.analyse(self.source)

    @cached_property
    def driving_face(self) -> FaceState:
        with torch.inference_mode():
            return self.safa.analyse(self.driving)

    def _file(self, name: str) -> Path:
        path = self.folder / name
        if not path.is_file():
            raise UserError("no such file in the set", str(path))
        return path


def images(pixels_u8: Array) -> Tensor:
    """(N, H, W, 3) uint8 to network input (N, 3, H, W) float32 in [0, 1]."""
    scaled = pixels_u8.astype(np.float32) / np.float32(255)
    return torch.from_numpy(
        np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
    )  # (N, H, W, 3) -> (N, 3, H, W)
