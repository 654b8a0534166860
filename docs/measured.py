"""Measured numbers of README and guides: recorded in docs/measured.json, and written from there by this.

    python docs/measured.py demo runs/demo               # after `make demo`: times, scores, curves, picture
    python docs/measured.py install .venv --seconds 147  # after `make install`, with the time that it took
    python docs/measured.py                              # the documents again, from docs/measured.json

tests/contract/test_measured.py notices a document that says something else.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "docs" / "measured.json"
CUDA = ("nvidia*", "triton*", "cuda*", "cusparselt*")  # packages that a plain torch brings on Linux
# The picture of the demo: panels of each clip's strip, and the side in px that they get.
PANELS = ("source", "driving", "warped source", "occlusion 1", "prediction", "3D render", "normals")
PLACES_IN_STRIP, PANELS_OF_STRIP = (0, 1, 3, 4, 2, 6, 7), 11
SIDE, CAPTION, QUALITY = 144, 24, 88

Numbers = Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a document states numbers.

    Attributes:
        text: a regular expression that is found once; its groups are named as in ``FORMATS``. A space is any
            white space, since lines are wrapped.
    """

    document: str
    text: str


PLACES = (
    Place("README.md", r"It took (?P<minutes>\S+(?: to \S+)?) minutes on two cores"),
    Place("README.md", r"`\.venv` takes (?P<gb>\S+) GB, (?P<cuda_gb>\S+) of them CUDA and Triton"),
    Place("README.md", r"with torch's CPU build (?P<cpu_gb>\S+) GB, made in (?P<cpu_minutes>\S+) minutes"),
    Place("README.md", r"\| PSNR \| (?P<psnr>\S+) dB \| (?P<psnr_copy>\S+) dB \|"),
    Place("README.md", r"\| SSIM \| (?P<ssim>\S+) \| (?P<ssim_copy>\S+) \|"),
    Place("README.md", r"between the eyes \| (?P<nme>\S+) % \| (?P<nme_copy>\S+) % \|"),
    Place("README.md", r"\| (?P<mouth_3d>\S+); (?P<mouth>\S+), (?P<eyes_3d>\S+) \| none \|"),
    Place(
        "docs/training.md",
        r"two CPU cores: (?P<head_steps>\S+) and (?P<steps>\S+) steps, in (?P<head_seconds>\S+) and "
        r"(?P<train_seconds>\S+) seconds",
    ),
)


def _at(*keys: str, digits: int, scale: float = 1.0) -> Callable[[Numbers], str]:
    """How a number is written: where it is in the record, times ``scale``, with commas of thousands."""

    def text(numbers: Numbers) -> str:
        value: Any = numbers
        for key in keys:
            value = value[key]
        if isinstance(value, str):  # of a time when this script did not measure it
            return value
        return f"{value * scale:,.{digits}f}"

    return text


FORMATS: Mapping[str, Callable[[Numbers], str]] = {
    "minutes": _at("demo", "minutes", digits=0),
    "gb": _at("install", "gb", digits=1),
    "cuda_gb": _at("install", "cuda_gb", digits=1),
    "cpu_gb": _at("install_cpu", "gb", digits=1),
    "cpu_minutes": _at("install_cpu", "seconds", digits=1, scale=1 / 60),
    "psnr": _at("demo", "psnr", digits=1),
    "psnr_copy": _at("demo", "psnr_copy_source", digits=1),
    "ssim": _at("demo", "ssim", digits=2),
    "ssim_copy": _at("demo", "ssim_copy_source", digits=2),
    "nme": _at("demo", "landmark_nme", digits=1, scale=100),
    "nme_copy": _at("demo", "landmark_nme_copy_source", digits=1, scale=100),
    "mouth_3d": _at("demo", "expression", "3dmm mouth_opening_correlation", digits=2),
    "mouth": _at("demo", "expression", "prediction mouth_opening_correlation", digits=2),
    "eyes_3d": _at("demo", "expression", "3dmm eye_opening_correlation", digits=2),
    "head_steps": _at("demo", "steps", "pretrain", digits=0),
    "steps": _at("demo", "steps", "train", digits=0),
    "head_seconds": _at("demo", "seconds", "pretrain", digits=0),
    "train_seconds": _at("demo", "seconds", "train", digits=0),
}


# ---- documents ---------------------------------------------------------------------------------------------


def read_record() -> dict[str, Any]:
    """What was measured last."""
    record: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8"))
    return record


def filled(document: str, text: str, numbers: Numbers) -> str:
    """The document's text with the recorded numbers.

    Raises:
        ValueError: a place is not in it, or more than once.
    """
    for place in PLACES:
        if place.document == document:
            found = list(re.finditer(place.text.replace(" ", r"\s+"), text))
            if len(found) != 1:
                raise ValueError(f"{document}: {place.text!r} is there {len(found)} times")
            for name in sorted(found[0].groupdict(), key=found[0].start, reverse=True):
                text = text[: found[0].start(name)] + FORMATS[name](numbers) + text[found[0].end(name) :]
    return text


def write_documents(numbers: Numbers) -> None:
    """Write the recorded numbers into all documents."""
    for document in dict.fromkeys(place.document for place in PLACES):
        path = ROOT / document
        path.write_text(filled(document, path.read_text(encoding="utf-8"), numbers), encoding="utf-8")


# ---- the demo ----------------------------------------------------------------------------------------------


def measured_demo(run: Path) -> dict[str, Any]:
    """Times, steps and scores of a finished demo, and what its model does with mouths and eyes."""
    stages = json.loads((run / "stages.json").read_text(encoding="utf-8"))
    seconds = {name: stage["seconds"] for name, stage in stages.items()}
    steps = {
        name: json.loads((run / name / "manifest.json").read_text(encoding="utf-8"))["counts"]["steps"]
        for name in ("pretrain", "train")
    }
    metrics = json.loads((run / "report" / "metrics.json").read_text(encoding="utf-8"))
    keys = [key + side for key in ("psnr", "ssim", "landmark_nme") for side in ("", "_copy_source")]
    return {
        "date": datetime.date.today().isoformat(),
        "minutes": round(sum(seconds.values()) / 60, 1),
        "seconds": {name: round(spent) for name, spent in seconds.items()},
        "steps": steps,
        **{key: round(metrics[key], 4) for key in keys},
        "expression": _expression(run),
    }


def _expression(run: Path) -> dict[str, float]:
    """What ``benchmarks/expression.py`` prints of the held-out people."""
    command = [sys.executable, str(ROOT / "benchmarks" / "expression.py"), "--json", "--split", "test"]
    command += ["--checkpoint", str(run / "train"), "--clips", str(run / "data" / "clips")]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    means = json.loads(done.stdout)
    return {name: round(value, 3) for name, value in means.items() if name.endswith(("correlation", "gain"))}


def copy_pictures(run: Path) -> None:
    """The demo's curves, and a picture of the people that it never saw."""
    for name in ("pretrain", "train"):
        shutil.copyfile(run / name / "curves.png", ROOT / "docs" / f"curves_{name}.png")
    strips = sorted((run / "report" / "clips" / "reconstruction").glob("*/strip.jpg"))
    picture_of([Image.open(path) for path in strips]).save(ROOT / "docs" / "demo.jpg", quality=QUALITY)


def picture_of(strips: list[Image.Image]) -> Image.Image:
    """One row of each strip, the n-th one of the n-th strip, under the names of their panels."""
    from safa.visualize.images import caption, side_by_side, stacked

    rows = [side_by_side([caption(name.removesuffix(" 1"), SIDE, CAPTION) for name in PANELS])]
    for number, strip in enumerate(strips):
        boxes = boxes_of(strip.size, number)
        panels = [strip.crop(box).resize((SIDE, SIDE), Image.Resampling.LANCZOS) for box in boxes]
        rows.append(side_by_side([np.asarray(each.convert("RGB")) for each in panels]))
    return Image.fromarray(stacked(rows))


def boxes_of(size: tuple[int, int], number: int) -> list[tuple[int, int, int, int]]:
    """Where the panels of ``PLACES_IN_STRIP`` are in a row of a strip; after its last row comes its first."""
    from safa.visualize.panels import GAP, STRIP_CAPTION_SHARE, caption_height

    panel = (size[0] - (PANELS_OF_STRIP - 1) * GAP) // PANELS_OF_STRIP
    top = caption_height(panel, STRIP_CAPTION_SHARE) + GAP
    rows = (size[1] - top + GAP) // (panel + GAP)
    top += number % rows * (panel + GAP)
    lefts = [place * (panel + GAP) for place in PLACES_IN_STRIP]
    return [(left, top, left + panel, top + panel) for left in lefts]


# ---- the installation --------------------------------------------------------------------------------------


def measured_install(venv: Path, seconds: float) -> dict[str, Any]:
    """Size of an environment, and of what is in it for GPUs alone."""
    packages = next(venv.glob("lib/python3*/site-packages"))
    cuda = sum(_gigabytes(path) for pattern in CUDA for path in packages.glob(pattern))
    sizes = {"gb": round(_gigabytes(venv), 2), "cuda_gb": round(cuda, 2)}
    return {"date": datetime.date.today().isoformat(), **sizes, "seconds": round(seconds)}


def _gigabytes(path: Path) -> float:
    """As ``du`` counts: blocks on the disk."""
    done = subprocess.run(["du", "-sk", str(path)], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[0]) * 1024 / 1e9


def main() -> int:
    """Record what was measured, if anything is given, and write all documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="what")
    demo = commands.add_parser("demo", help="record a finished demo")
    demo.add_argument("run", type=Path, help="its run folder")
    install = commands.add_parser("install", help="record an installation")
    install.add_argument("venv", type=Path)
    install.add_argument("--seconds", type=float, required=True, help="that it took")
    asked = parser.parse_args()
    numbers = read_record()
    if asked.what == "demo":
        numbers["demo"] = measured_demo(asked.run)
        copy_pictures(asked.run)
    elif asked.what == "install":
        measured = measured_install(asked.venv, asked.seconds)
        numbers["install" if measured["cuda_gb"] else "install_cpu"] = measured
    RECORD.write_text(json.dumps(numbers, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    write_documents(numbers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
