"""The whole chain: ``python -m pipelines.demo --config configs/demo.yaml``, or ``configs/own_videos.yaml``.

Talking heads are rendered, or a folder of videos is taken; they are preprocessed, the 3DMM is pre-trained,
all networks are trained together, people are reconstructed and animated, and ``report/index.html`` in the
run folder shows the results.
If it is stopped at any point, run the same command again to resume.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines import evaluate, preprocess, train
from pipelines.actor_pool import cores_of_driver
from pipelines.chain import Stage, check_chain, run_chain
from pipelines.launch import launch, ray_session
from pipelines.lease import job_id
from safa.config.demo import DemoConfig
from safa.config.training import TrainConfig
from safa.errors import UserError
from safa.files import absolute, exists, join, read_bytes, shown
from safa.messages import INSTALL_APP
from safa.metrics import COPY_SOURCE, METRICS
from safa.report.rendering import format_score
from safa.synthetic import write_dataset

log = logging.getLogger(__name__)


def demo(config: DemoConfig) -> str:
    """Run the stages that are not finished. Returns the figures as text.

    Raises:
        UserError: as the stages.
    """
    _refuse_missing_videos(config)  # before Ray, and a run folder
    seconds = run_chain(config.run, stages_of(config), ray_session)
    numbers = json.loads(read_bytes(join(config.evaluate.out, evaluate.NUMBERS)))
    return summary(numbers, seconds, config)


def check(config: DemoConfig) -> str:
    """Look at settings and inputs, without Ray and without writing. Returns what was seen.

    Raises:
        UserError: as ``demo``, as far as that can be seen before any work.
    """
    _refuse_missing_videos(config)
    check_chain(config.run, stages_of(config))
    return preprocess.check(config.preprocess) if config.synthetic is None else "the settings of all stages"


def _refuse_missing_videos(config: DemoConfig) -> None:
    if config.videos is not None and not exists(config.videos):
        raise UserError("no such folder", f"videos={shown(config.videos)}", "Give the folder of your videos.")


def stages_of(config: DemoConfig) -> tuple[Stage, ...]:
    """The stages in their order."""
    clips, head, full, report = config.preprocess, config.pretrain, config.train, config.evaluate
    return (
        *_synthetic_stage(config),
        Stage(
            *("preprocess", clips, preprocess.NOT_HASHED, clips.out),
            lambda _: preprocess.preprocess(clips),
            lambda: preprocess.all_needs(clips),
        ),
        _training("pretrain", head),
        _training("train", full),
        Stage(
            *(evaluate.STAGE, report, evaluate.NOT_HASHED, report.out),
            lambda seconds: evaluate.evaluate(report, seconds),
            lambda: evaluate.all_needs(report),
        ),
    )


def _training(name: str, config: TrainConfig) -> Stage:
    return Stage(
        *(name, config, train.NOT_HASHED, config.folder),
        lambda _: train.train(config),
        lambda: train.all_needs(config),
    )


def _synthetic_stage(config: DemoConfig) -> tuple[Stage, ...]:
    synthetic, folder = config.synthetic, config.synthetic_folder
    if synthetic is None:
        return ()

    def render(_: Mapping[str, float]) -> None:
        write_dataset(synthetic, folder, workers=config.processes or cores_of_driver())

    return (Stage("synthetic", synthetic, frozenset(), folder, render),)


def summary(numbers: Mapping[str, Any], seconds: Mapping[str, float], config: DemoConfig) -> str:
    """The figures, the wall times and the path of the report, as text."""
    lines = [f"{name:<14} {spent:7.0f} s" for name, spent in seconds.items()]
    lines += [f"{'total':<14} {sum(seconds.values()):7.0f} s", ""]
    for metric in METRICS:
        if metric.key in numbers:
            value, copied = (
                format_score(metric, numbers.get(metric.key + side, math.nan)) for side in ("", COPY_SOURCE)
            )
            lines.append(f"{metric.label:<14} {value:>10}   copying the source: {copied}")
    counts = numbers["counts"]
    lines.append("clips          {in}: {ok} ok, {quarantined} quarantined".format(**counts))
    lines += ["", f"report: {shown(absolute(join(config.evaluate.out, evaluate.PAGE)))}", ""]
    if job_id():  # what lies there is fetched first: docs/cluster.md
        return "\n".join([*lines, f"model: {shown(absolute(join(config.train.folder, 'model')))}"]) + "\n"
    checkpoint = f"--checkpoint {shown(config.run)}"
    lines += [
        "Now try a photo of your own:",
        f"  .venv/bin/safa animate photo.jpg video.mp4 -o out.mp4 --size 256 {checkpoint}",
    ]
    if importlib.util.find_spec("gradio") is None:
        lines.append(f"  {INSTALL_APP}    # once, for the page")
    lines.append(f"  .venv/bin/safa app {checkpoint}    # the same in a browser")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m pipelines.demo``."""

    def body(config: DemoConfig) -> None:
        text = demo(config)
        sys.stdout.write(f"\n{text}")

    description = "The whole chain: the synthetic data set, or your videos."
    return launch("demo", description, DemoConfig, body, argv, check=check)


if __name__ == "__main__":
    sys.exit(main())
