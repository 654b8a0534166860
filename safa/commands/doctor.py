"""``safa doctor``: what is installed, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safa.messages import INSTALL, INSTALL_APP, INSTALL_FACES

if TYPE_CHECKING:
    from safa.inference.face_tracking import DetectorStatus

PACKAGES = ("torch", "numpy", "ray", "pyarrow", "pillow", "av", "imageio-ffmpeg", "safetensors")
EXTRAS = {  # what each package is for, and how to install it
    "face_alignment": ("detects faces", INSTALL_FACES),
    "gradio": ("serves the page of `safa app`", INSTALL_APP),
    "pytorch3d": ("a second rasteriser; the built-in one needs nothing", "see its INSTALL.md"),
}


def add_parser(subparsers: Any) -> None:
    """Add ``safa doctor`` to the command line."""
    parser = subparsers.add_parser("doctor", help="show what is installed, what is missing and how to get it")
    parser.add_argument(
        "--assets",
        type=Path,
        default=Path("assets"),
        metavar="DIR",
        help="where you keep weights (default: assets/)",
    )
    parser.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from safa.asset_catalogue import check_assets
    from safa.inference.face_tracking import detector_status

    _line("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in PACKAGES:
        _line(package, _version(package))
    _line("ffmpeg", _ffmpeg())
    for line in _devices():
        _line("device", line)
    for package, (purpose, fix) in EXTRAS.items():
        is_installed = importlib.util.find_spec(package) is not None
        _line(package, "installed" if is_installed else f"missing: {purpose}; {fix}")
    status = detector_status(arguments.assets)
    if status.package and status.detector:
        _line("face detector", f"{status.detector} ({arguments.assets})")
    else:
        _line("face detector", f"missing: {_detector_fix(status, arguments.assets)}")
        _line("", "without it: landmarks beside a file (FILE.landmarks.npy), else the centre square")
    for asset in check_assets(arguments.assets):
        _line(asset.asset.file, f"{asset.state}: {asset.asset.purpose}")
    _line("", "`safa assets check` lists their licences and owners; `make demo` needs none of them")
    return 0


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

    lines = [f"cpu: {os.cpu_count()} cores, {torch.get_num_threads()} threads; float32, bfloat16"]
    for number in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(number)
        halves = "float32, float16" + (", bfloat16" if card.major >= 8 else "")
        lines.append(f"cuda:{number}: {card.name}, {card.total_memory / 2**30:.0f} GiB; {halves}")
    if len(lines) == 1:
        lines.append("no CUDA device; everything runs on the CPU")
    return lines


def _detector_fix(status: DetectorStatus, folder: Path) -> str:
    from safa.data.detectors.face_alignment import DETECTOR_FILES
    from safa.inference.face_tracking import DETECTORS

    choices = " or ".join(" and ".join(DETECTOR_FILES[name]) for name in DETECTORS)
    steps = [] if status.package else [f"install face-alignment ({INSTALL_FACES})"]
    steps += [] if status.detector else [f"put {choices} into {folder}/"]
    return " and ".join(steps)
