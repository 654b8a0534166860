"""``safa doctor``: what is installed, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import platform
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "numpy", "ray", "pyarrow", "pillow", "imageio-ffmpeg", "safetensors")
EXTRAS = {
    "face_alignment": ("finds faces", "`make install`, or .venv/bin/python -m pip install -e '.[faces]'"),
    "gradio": ("the page of `safa app`", "`make install`, or .venv/bin/python -m pip install -e '.[app]'"),
    "pytorch3d": ("a second rasteriser; the built-in one needs nothing", "see its INSTALL.md"),
}


def add_parser(subparsers: Any) -> None:
    """Add ``safa doctor`` to the command line."""
    parser = subparsers.add_parser("doctor", help="what is installed, what is missing, how to get it")
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
    from safa.inference.face_tracking import available

    _line("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in PACKAGES:
        _line(package, _version(package))
    _line("ffmpeg", _ffmpeg())
    for line in _devices():
        _line("device", line)
    for package, (purpose, how) in EXTRAS.items():
        there = importlib.util.find_spec(package) is not None
        _line(package, "installed" if there else f"missing: {purpose}. {how}")
    found = available(arguments.assets)
    if found.package and found.detector:
        _line("faces", f"found by {found.detector} ({arguments.assets})")
    else:
        _line("faces", f"not found: {_how_to_find(found.package, found.detector, arguments.assets)}")
        _line("", "until then: landmarks beside a file (FILE.landmarks.npy), --no-crop, or the centre square")
    for status in check_assets(arguments.assets):
        _line(status.asset.file, f"{status.state}: {status.asset.purpose}")
    _line("", "`safa assets check` tells licence and owner of each; none is needed for `make demo`")
    return 0


def _line(name: str, text: str) -> None:
    sys.stdout.write(f"{name:<22} {text}\n")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing: `make install`, or .venv/bin/python -m pip install -c constraints.txt -e ."


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


def _how_to_find(package: bool, detector: str | None, folder: Path) -> str:
    from safa.inference.face_tracking import DETECTORS

    wanted = " or ".join(" and ".join(files) for files, _ in DETECTORS.values())
    install = "install face-alignment (`make install`, or .venv/bin/python -m pip install -e '.[faces]')"
    parts = [] if package else [install]
    parts += [] if detector else [f"put {wanted} into {folder}/"]
    return " and ".join(parts)
