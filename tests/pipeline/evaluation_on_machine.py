"""Evaluates on a machine of so many logical CPUs and GPUs: one line of JSON.

``python evaluation_on_machine.py CPUS GPUS CONFIG``. Where the graph asks for GPUs, which are not here, its
model runs on the CPU all the same.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

import ray
from ray.data import DataContext

from pipelines import evaluate
from pipelines.window_stages import Tools, WindowRunner
from safa.config import load_settings
from safa.config.inference import EvaluateConfig


class CpuTools(Tools):
    def __init__(self, config: EvaluateConfig) -> None:
        super().__init__(config)
        self._device = "cpu"


class CpuRunner(WindowRunner):
    def _make_tools(self, config: EvaluateConfig) -> Tools:
        return CpuTools(config)


def main() -> None:
    """Evaluate; print the counts, how many operators the graph has, and the seconds."""
    cpus, gpus = int(sys.argv[1]), int(sys.argv[2])
    ray.init("local", num_cpus=cpus, num_gpus=gpus, include_dashboard=False, logging_level=logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = 60
    evaluate.WindowRunner = CpuRunner  # type: ignore[misc]
    config = load_settings(Path(sys.argv[3]), EvaluateConfig)
    began = time.monotonic()
    counts = evaluate.evaluate(config, {})["counts"]
    line = {"counts": counts, "operators": len(evaluate.operators(config))}
    sys.stdout.write(json.dumps({**line, "seconds": time.monotonic() - began}) + "\n")


if __name__ == "__main__":
    main()
