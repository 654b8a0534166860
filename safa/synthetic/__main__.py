"""``python -m safa.synthetic --config X.yaml --out DIR`` writes the data set without a pipeline around it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from safa.command_line import Parser
from safa.config import load_settings
from safa.config.synthetic import SyntheticConfig
from safa.cores import cores_here
from safa.errors import run_reporting_errors
from safa.synthetic.writer import write_dataset


def _body() -> None:
    parser = Parser(
        prog="python -m safa.synthetic", description="Make a synthetic data set of talking heads."
    )
    parser.add_argument("--config", type=Path, required=True, help="e.g. configs/synthetic.yaml")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder of the data set; if some of it exists, the rest is made",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change one setting, e.g. num_people=20",
    )
    parser.add_argument("--workers", type=int, default=cores_here(), help="processes")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = load_settings(arguments.config, SyntheticConfig, arguments.set)
    summary = write_dataset(config, arguments.out, workers=arguments.workers)
    sys.stdout.write(
        f"{summary.clips} clips, {summary.frames} frames of {summary.people} people in {summary.folder} "
        f"({summary.made} videos made in {summary.seconds:.0f} s)\n"
    )


if __name__ == "__main__":
    sys.exit(run_reporting_errors(_body))
