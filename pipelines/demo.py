"""The whole job on a data set made here: ``python -m pipelines.demo --config configs/demo.yaml``.

Talking heads are drawn and preprocessed, the 3DMM is pre-trained, everything is trained together, held-out
people are rebuilt and animated, and ``report/index.html`` in the run folder shows what came out. Stopped
at any point and started again, it goes on.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines import evaluate, preprocess, train
from pipelines.chain import Stage, run_chain
from pipelines.launch import launch, ray_session
from safa.config.demo import DemoConfig
from safa.metrics import COPY_SOURCE, METRICS
from safa.report.rendering import format_score
from safa.synthetic import write_dataset

log = logging.getLogger(__name__)


def demo(config: DemoConfig) -> str:
    """Do what is not done yet. Returns the figures as text.

    Raises:
        UserError: as the stages do.
    """
    seconds = run_chain(config.run, stages_of(config), ray_session)
    numbers = json.loads((config.report / evaluate.NUMBERS).read_text(encoding="utf-8"))
    return summary(numbers, seconds, config)


def stages_of(config: DemoConfig) -> tuple[Stage, ...]:
    """The stages in order."""
    clips, first, second = config.preprocess_settings(), config.pretrain_settings(), config.train_settings()
    scored = config.evaluate_settings()
    return (
        Stage(
            *("synthetic", config.synthetic, frozenset(), config.videos),
            lambda _: write_dataset(config.synthetic, config.videos, workers=config.processes),
        ),
        Stage(
            *("preprocess", clips, preprocess.NOT_HASHED, clips.out),
            lambda _: preprocess.preprocess(clips),
        ),
        Stage("pretrain", first, train.NOT_HASHED, first.folder, lambda _: train.train(first)),
        Stage("train", second, train.NOT_HASHED, second.folder, lambda _: train.train(second)),
        Stage(
            *(evaluate.STAGE, scored, evaluate.NOT_HASHED, scored.out),
            lambda seconds: evaluate.evaluate(scored, seconds),
        ),
    )


def summary(numbers: Mapping[str, Any], seconds: Mapping[str, float], config: DemoConfig) -> str:
    """The figures, the time and where the report is."""
    lines = [f"{name:<14} {spent:7.0f} s" for name, spent in seconds.items()]
    lines += [f"{'in all':<14} {sum(seconds.values()):7.0f} s", ""]
    for metric in METRICS:
        if metric.key in numbers:
            value, copied = (
                format_score(metric, numbers.get(metric.key + side, math.nan)) for side in ("", COPY_SOURCE)
            )
            lines.append(f"{metric.label:<14} {value:>10}   copying the source: {copied}")
    counts = numbers["counts"]
    lines.append("clips          {in} in, {ok} ok, {quarantined} quarantined".format(**counts))
    lines += ["", f"report: {(config.report / evaluate.PAGE).resolve()}"]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m pipelines.demo``."""

    def body(config: DemoConfig) -> None:
        text = demo(config)
        sys.stdout.write(f"\n{text}")

    return launch("demo", "The whole job on a data set made here.", DemoConfig, body, argv)


if __name__ == "__main__":
    sys.exit(main())
