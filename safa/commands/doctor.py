"""``safa doctor``: what is installed, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safa.cores import cores_here
from safa.messages import INSTALL, INSTALL_APP, INSTALL_FACES, INSTALL_ONNX, count

PACKAGES = ("torch", "numpy", "ray", "pyarrow", "pillow", "av", "imageio-ffmpeg", "safetensors")
NONE = "missing; without it: landmarks beside a file (FILE.landmarks.npy), or --no-crop"
DLIB = "installed; its landmarks were learned from pictures that are for research alone"
EXTRAS = {  # what each package is for, and how to install it
    "face_alignment": ("detects faces", INSTALL_FACES),
    "gradio": ("serves the page of `safa app`", INSTALL_APP),
    "onnx": ("writes the graphs of `safa export`", INSTALL_ONNX),
    "pytorch3d": ("a second rasteriser; the built-in one needs nothing", "see its INSTALL.md"),
}


def add_parser(subparsers: Any) -> None:
    """Add ``safa doctor`` to the command line."""
    parser = subparsers.add_parser("doctor", help="show what is installed, what is missing and how to get it")
    parser.add_argument(
        "--assets",
        type=Path,
        metavar="DIR",
        help="where you keep weights (default: the folders that are listed)",
    )
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from safa.asset_catalogue import check_assets
    from safa.asset_folders import asset_folders
    from safa.files import absolute, shown
    from safa.inference.trackers import detector_status

    status = detector_status(asset_folders(arguments.assets))
    for line in _verdict(status.chosen != "none"):
        _line("", line)
    _line("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in PACKAGES:
        _line(package, _version(package))
    _line("ffmpeg", _ffmpeg())
    for line in _devices():
        _line("device", line)
    for package, (purpose, fix) in EXTRAS.items():
        is_installed = importlib.util.find_spec(package) is not None
        _line(package, "installed" if is_installed else f"missing: {purpose}; {fix}")
    folders = asset_folders(arguments.assets)
    for folder in folders:
        _line("folder of assets", shown(folder))
    fan = f"{status.detector} of face-alignment"
    _line("face detector", {"fan": fan, "dlib": "dlib", "none": NONE}[status.chosen])
    _line("  dlib", f"missing: {status.dlib}; {INSTALL}" if status.dlib else DLIB)
    _line(
        "  face-alignment", f"missing: {status.fan}" if status.fan else f"{status.detector} ({status.folder})"
    )
    for asset in check_assets(folders):
        _line(asset.asset.file, f"{asset.state}: {asset.asset.purpose} ({absolute(asset.path)})")
    _line("", "`safa assets check` lists licences, owners and addresses; `make demo` needs none but dlib's")
    return 0


def _verdict(finds_faces: bool) -> Iterator[str]:
    """What can be done here and now, before all that is there and is not."""
    from safa.errors import UserError
    from safa.files import shown
    from safa.inference.model_choice import IN_THE_BOX, default_model

    try:
        model = default_model()
        name = "the small model that comes with safa" if model == IN_THE_BOX else f"the model {shown(model)}"
        yield f"ready: `safa animate PHOTO VIDEO -o out.mp4` uses {name}"
    except UserError as error:
        yield f"name a model with --checkpoint: {error}"
    yield "faces are found" if finds_faces else "no faces are found: see the face detector below"
    yield "what is missing below is for other things, which its line names"


def _line(name: str, text: str) -> None:
    sys.stdout.write(f"{name:<22} {text}\n")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return f"missing: {INSTALL}"


def _ffmpeg() -> str:
    import imageio_ffmpeg

    try:
        return f"{imageio_ffmpeg.get_ffmpeg_version()} ({imageio_ffmpeg.get_ffmpeg_exe()})"
    except RuntimeError as error:
        return f"missing: {error}"


def _devices() -> list[str]:
    import torch

    lines = [f"cpu: {count(cores_here(), 'core')}, {torch.get_num_threads()} threads; float32, bfloat16"]
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        halves = "float32, float16" + (", bfloat16" if card.major >= 8 else "")
        lines.append(f"cuda:{number}: {card.name}, {card.total_memory / 2**30:.0f} GiB; {halves}")
    if len(lines) == 1:
        lines.append("no CUDA device; everything runs on the CPU")
    return lines
