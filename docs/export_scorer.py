"""Exports another package's network as a scorer: TorchScript for ``scorers.identity`` or ``.landmarks``.

    python docs/export_scorer.py facenet_pytorch:InceptionResnetV1 --weights FILE --preset facenet -o id.pt
    python docs/export_scorer.py my_package:Pips --kind landmarks --side 256 --points unit -o landmarks.pt

NETWORK is a class or function that makes the network when it is called without arguments; its module is
imported, so it must be one that you trust. The exported network takes pictures of any size in [0, 1], scales
and normalises them as this network wants them, and is tried on a black picture before it is written.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from safa.errors import UserError, run_reporting_errors
from safa.files import atomic_file
from safa.weights import read_weights

# What well-known networks see: side of the picture in px, mean and standard deviation of values in [0, 1].
PRESETS: dict[str, tuple[int, float, float]] = {
    "facenet": (160, 127.5 / 255, 128 / 255),  # facenet-pytorch: fixed_image_standardization
    "arcface": (112, 0.5, 0.5),  # insightface's iResNets
}


class Scorer(nn.Module):
    """Pictures (B, 3, S, S) in [0, 1] to embeddings (B, D), or to points (B, 68, 2) in their pixels."""

    def __init__(self, network: nn.Module, side: int, mean: float, std: float, points: str) -> None:
        super().__init__()
        self.side, self.mean, self.std = side, mean, std
        self.as_points, self.unit = bool(points), 1.0 if points == "unit" else float(side)
        example = torch.zeros(2, 3, side, side)
        with torch.no_grad():
            self.network = torch.jit.trace(network.eval(), example)  # type: ignore[no-untyped-call]

    def forward(self, image: Tensor) -> Tensor:
        small = F.interpolate(image, size=[self.side, self.side], mode="bilinear", align_corners=False)
        found = self.network((small - self.mean) / self.std)
        if self.as_points:
            return found.reshape(len(image), 68, 2) * (image.shape[-1] / self.unit)  # (B, 136) -> (B, 68, 2)
        return found.flatten(1)  # (B, D, 1, 1) -> (B, D)


def export(arguments: argparse.Namespace) -> None:
    """Make the network, try it, and write it."""
    network = _made(arguments.network)
    if arguments.weights is not None:
        try:
            network.load_state_dict(dict(read_weights(arguments.weights)))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            what = f"not the weights of {arguments.network} ({reason})"
            raise UserError(what, str(arguments.weights)) from None
    side, mean, std = PRESETS[arguments.preset] if arguments.preset else (112, 0.5, 0.5)
    side, mean, std = arguments.side or side, _or(arguments.mean, mean), _or(arguments.std, std)
    points = arguments.points if arguments.kind == "landmarks" else ""
    try:
        script = torch.jit.script(Scorer(network, side, mean, std, points))
        found = script(torch.zeros(3, 3, 64, 64))
    except Exception as error:  # of the network's own code, or of torch's tracer
        reason = next(iter(str(error).splitlines()), "")[:200]
        raise UserError(f"cannot be exported ({type(error).__name__}: {reason})", arguments.network) from None
    expected = found.shape[1:] == (68, 2) if points else found.ndim == 2
    if not expected:
        raise UserError(f"gives {tuple(found.shape)} for 3 pictures", arguments.network, "Check --kind.")
    with atomic_file(arguments.output) as path:
        torch.jit.save(script, path)  # type: ignore[no-untyped-call]
    sys.stdout.write(f"wrote {arguments.output}: {tuple(found.shape[1:])} for each picture, from {side} px\n")
    sys.stdout.write(f"Use it with `--set scorers.{arguments.kind}={arguments.output}`.\n")


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _made(name: str) -> nn.Module:
    module, _, maker = name.partition(":")
    try:
        network: Any = getattr(importlib.import_module(module), maker)()
    except Exception as error:  # whatever the other package raises
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise UserError(f"cannot be made ({reason})", name, "Give MODULE:NAME.") from None
    if not isinstance(network, nn.Module):
        raise UserError("is no network of torch", name)
    return network


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line and export."""
    text = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="export_scorer.py", description=text)
    parser.add_argument("network", metavar="MODULE:NAME")
    parser.add_argument("--kind", choices=("identity", "landmarks"), default="identity")
    parser.add_argument("--weights", type=Path, help="a state dict, .pth or .safetensors")
    parser.add_argument("--preset", choices=tuple(PRESETS), help="side, mean and std of a well-known network")
    parser.add_argument("--side", type=int, help="px of the picture that it sees (default: 112)")
    parser.add_argument("--mean", type=float, help="taken from pictures in [0, 1] (default: 0.5)")
    parser.add_argument("--std", type=float, help="that they are divided by (default: 0.5)")
    parser.add_argument(
        "--points", choices=("px", "unit"), default="px", help="landmarks in px of that picture, or in [0, 1]"
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript has no successor that reads files
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # what it warns of shows at the trial
        return run_reporting_errors(lambda: export(arguments))


if __name__ == "__main__":
    sys.exit(main())
