"""The optional files that a user can supply: what each is for, who owns it, and whether it is present.

The built-in defaults need none of them. None is downloaded by this program; most may not be redistributed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DEFAULT_FOLDER = Path("assets")


@dataclass(frozen=True)
class Asset:
    """One optional file. ``sha256`` is None where nobody whom we can cite has published a hash."""

    file: str  # name inside the assets folder
    purpose: str
    licence: str
    owner: str  # where its owner publishes it
    sha256: str | None = None


@dataclass(frozen=True)
class AssetStatus:
    """The state of one asset: 'present', 'missing' or 'other sha256'."""

    asset: Asset
    path: Path
    state: str


# torchvision puts the first digits of a file's SHA-256 into its name; those are checked as a prefix.
CATALOGUE: tuple[Asset, ...] = (
    Asset(
        "generic_model.pkl",
        "FLAME 2020 or 2023 head model; `safa assets convert` reads it",
        "FLAME licence (research; commercial on request), Max Planck",
        "https://flame.is.tue.mpg.de (register, 'FLAME 2020' or 'FLAME 2023')",
    ),
    Asset(
        "head_template.obj",
        "texture layout of the FLAME mesh",
        "DECA licence (research), Max Planck",
        "https://github.com/yfeng95/DECA, folder data/",
    ),
    Asset(
        "landmark_embedding.npy",
        "the 68 landmarks on the FLAME mesh",
        "DECA licence (research), Max Planck",
        "https://github.com/yfeng95/DECA, folder data/",
    ),
    Asset(
        "uv_face_mask.png",
        "the face in texture space, without eyes and mouth",
        "DECA licence (research), Max Planck",
        "https://github.com/yfeng95/DECA, folder data/",
    ),
    Asset(
        "uv_face_eye_mask.png",
        "the face in texture space, with eyes and mouth",
        "DECA licence (research), Max Planck",
        "https://github.com/yfeng95/DECA, folder data/",
    ),
    Asset(
        "safa.pth.tar",
        "released SAFA checkpoint; holds its own head model",
        "research use, by its authors; its head model under the FLAME licence",
        "the authors' project page, named in the paper (arXiv 2111.04928)",
    ),
    Asset(
        "2DFAN4-11f355bf06.pth.tar",
        "face-alignment: 68 landmarks from an image",
        "BSD 3-Clause, Adrian Bulat",
        "https://www.adrianbulat.com/face-alignment (file 2DFAN4-cd938726ad.zip)",
    ),
    Asset(
        "s3fd-619a316812.pth",
        "face-alignment: S3FD face detector",
        "BSD 3-Clause, Adrian Bulat",
        "https://www.adrianbulat.com/face-alignment (file s3fd-619a316812.pth)",
    ),
    Asset(
        "blazefaceback.pth",
        "face-alignment: BlazeFace face detector",
        "Apache-2.0, MediaPipe authors",
        "https://github.com/hollance/BlazeFace-PyTorch",
    ),
    Asset(
        "79999_iter.pth",
        "BiSeNet face parser (19 classes) for face swap masks",
        "MIT, zllrunning",
        "https://github.com/zllrunning/face-parsing.PyTorch (README)",
    ),
    Asset(
        "vgg19.pth",
        "ImageNet VGG19 for the perceptual loss",
        "BSD 3-Clause, torchvision",
        "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth",
        sha256="dcbb9e9d",
    ),
    Asset(
        "mobilenet_v2.pth",
        "ImageNet MobileNetV2, the start of the 3DMM encoder",
        "BSD 3-Clause, torchvision",
        "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth",
        sha256="b0353104",
    ),
)


def check_assets(folder: Path, catalogue: Sequence[Asset] = CATALOGUE) -> list[AssetStatus]:
    """Look for every asset in ``folder``; a known hash (or its published prefix) is compared."""
    return [
        AssetStatus(asset, folder / asset.file, _state(asset, folder / asset.file)) for asset in catalogue
    ]


def _state(asset: Asset, path: Path) -> str:
    if not path.is_file():
        return "missing"
    if asset.sha256 is not None and not file_sha256(path).startswith(asset.sha256):
        return "other sha256"
    return "present"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
