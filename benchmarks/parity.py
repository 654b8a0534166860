"""Compare every network with recorded reference tensors: ``python benchmarks/parity.py --golden DIR``.

Builds the published model, fills it by the rule of the README beside the tensors, runs each recorded case and
prints one row per tensor. Exit code 1 if any row fails, 2 if the folder cannot be used.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from parity_cases import discriminator_and_parser, faces, images, structure, training
from parity_cases.borderline_pixels import PIXELS
from parity_cases.golden import Golden
from parity_cases.rows import Row, failures, table

from safa.errors import run_reporting_errors

# How sums are split among threads decides their last digits; with two, most recorded tensors come out bit by
# bit. Gradients near a kink of a loss follow those digits.
THREADS = 2

Case = Callable[[Golden], Iterator[Row]]

# Name, a file that must be there for it, what yields its rows, whether gradients are needed.
CASES: tuple[tuple[str, str, Case, bool], ...] = (
    ("state_dict_keys", "state_dict_keys.json", structure.state_dict_keys, False),
    ("param_counts", "param_counts.json", structure.param_counts, False),
    ("fill_check", "fill_check.json", structure.fill_check, False),
    ("kp", "kp.npz", faces.keypoints, False),
    ("tdmm", "tdmm.npz", faces.tdmm, False),
    ("raster", "raster.npz", faces.raster, False),
    ("texture", "texture.npz", faces.texture, False),
    ("render", "render.npz", faces.render, False),
    ("dense_motion", "dense_motion.npz", images.dense_motion, False),
    ("generator", "generator.npz", images.generator, False),
    ("faceswap", "faceswap.npz", images.face_swap, False),
    ("swap", "faceswap.npz", images.swap, False),
    ("attention", "contextual_attention.npz", images.attention, False),
    ("batch2", "batch2.npz", images.batch, False),
    *(
        (f"animation_{name}", "animation.npz", partial(images.animation, name), False)
        for name in images.TRANSFERS
    ),
    ("discriminator", "discriminator.npz", discriminator_and_parser.discriminator, False),
    ("bisenet", "bisenet.npz", discriminator_and_parser.face_parser, False),
    ("pretrain", "tdmm_pretrain.npz", training.head_stage, True),
    ("train", "train_losses.json", training.full_stage, True),
    ("train_soft", "train_soft.json", training.loss_groups, True),
    ("float64", "train_losses_f64.json", training.in_float64, True),
)


def main(argv: list[str] | None = None) -> int:
    """Run the cases; see the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--golden", type=Path, required=True, help="folder of one set of reference tensors")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--only", nargs="+", choices=[case[0] for case in CASES], help="run these cases only")
    options = parser.parse_args(argv)
    torch.set_num_threads(THREADS)
    golden = Golden(options.golden)
    rows = run(golden, options.only)
    print(table(rows))
    failed = failures(rows)
    print(f"{len(rows) - len(failed)} of {len(rows)} rows pass")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([row.as_json() for row in rows], indent=1))
    return 1 if failed else 0


def run(golden: Golden, only: Sequence[str] | None = None) -> list[Row]:
    """All rows of the chosen cases (default: all that the set has files for)."""
    rows: list[Row] = []
    for name, file, case, needs_gradients in CASES:
        if (only is not None and name not in only) or not golden.has(file):
            continue
        started = time.perf_counter()
        with contextlib.nullcontext() if needs_gradients else torch.no_grad():
            rows += settle(golden, case, list(case(golden)))
        sys.stderr.write(f"{name}: {time.perf_counter() - started:.1f} s\n")
    return rows


def settle(golden: Golden, case: Case, rows: list[Row]) -> list[Row]:
    """Try rows that fail behind the rasteriser again, with borderline pixels of the face masks toggled.

    Whether such a pixel belongs to a mask is the reference's own rounding noise; see
    ``parity_cases.borderline_pixels``. Each pixel is tried alone, then those together that helped.
    A row that passes this way says so.
    """
    if not any(row.may_be_fixed for row in rows):
        return rows
    helpful = 0
    with golden.toggle.tried() as choose:
        for bit in range(PIXELS):
            choose(1 << bit)
            again = {row.tensor: row for row in case(golden)}
            if any(row.may_be_fixed and again[row.tensor].max_abs < row.max_abs for row in rows):
                helpful |= 1 << bit
            rows = [row.or_toggled(again[row.tensor]) for row in rows]
            if not any(row.may_be_fixed for row in rows):
                return rows
            if not golden.toggle.has(bit + 1):
                break
        if helpful.bit_count() > 1:
            choose(helpful)
            again = {row.tensor: row for row in case(golden)}
            rows = [row.or_toggled(again[row.tensor]) for row in rows]
    return rows


if __name__ == "__main__":
    sys.exit(run_reporting_errors(main))
