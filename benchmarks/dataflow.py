"""What the driver of a pipeline costs where the work itself costs nothing: time, memory, pairs.

- ``pairs``: drawing as many pairs as there are clips, and reading them back from a list;
- ``driver``: an evaluation of ``--clips`` clips whose actors write a result without a model: the rate, the
  peak memory of the driver, and what collecting all results takes.

Run: python benchmarks/dataflow.py [--ask pairs] [--clips 20000]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines import evaluate as program
from pipelines.launch import ray_session, set_up_logging
from pipelines.shared_folder import shared
from pipelines.stages import Evaluator
from pipelines.worker_deaths import Attempts
from safa.config.inference import AnimationConfig, EvaluateConfig
from safa.data.clip_store import ClipInfo
from safa.evaluation.clip_evaluator import FRAMES, RESULT, ClipResult
from safa.evaluation.frame_scores import FRAMES_SCHEMA, SCORES
from safa.evaluation.jobs import EvaluationJob, draw_pairs, read_pairs
from safa.files import atomic_dir
from safa.report.content import headlines, write_clips

OF_A_PERSON = 20  # clips


def clip(number: int) -> ClipInfo:
    """A clip that exists in name only."""
    person = f"id{number // OF_A_PERSON:06d}"
    name = f"{person}#v{number:07d}#000000#000002"
    return ClipInfo(number, name, person, "v", "test", 0, 2, 2, 25.0, 64, 64, (0, 0, 64, 64), "test")


class _NoModel:
    """Writes what an evaluation of a clip of two frames writes, apart from pictures."""

    def run(self, job: EvaluationJob, folder: Path) -> ClipResult:
        result = ClipResult(job, "a", "a", 2, 25.0, dict.fromkeys(SCORES, 0.5), 0.0)
        ids = {"mode": job.mode, "clip_id": job.driving, "source_id": job.source, "person_id": "a"}
        columns: dict[str, Any] = {name: [value] * 2 for name, value in ids.items()}
        columns |= {"frame": [0, 1]} | {score: [0.5, 0.5] for score in SCORES}
        with atomic_dir(folder) as temporary:
            pq.write_table(pa.table(columns, schema=FRAMES_SCHEMA), temporary / FRAMES)
            (temporary / RESULT).write_text(result.to_json(), encoding="utf-8")
        return result


class EmptyEvaluator(Evaluator):
    """An actor without a model."""

    def __init__(self, config: EvaluateConfig) -> None:
        self._out, self._attempts = Path(config.out), Attempts(config.out)
        self._evaluator = _NoModel()  # type: ignore[assignment]


@contextmanager
def timed(what: str, count: int) -> Iterator[None]:
    """Print the wall time of the block, and the driver's peak memory so far."""
    began = time.perf_counter()
    yield
    seconds, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what}: {seconds:.2f} s for {count} clips, {1000 * seconds / count:.3f} ms each; {peak:.2f} GiB")


def pairs(count: int, work: Path) -> None:
    """Draw pairs, and read them from a list."""
    clips = [clip(number) for number in range(count)]
    with timed("pairs drawn", count):
        drawn = draw_pairs(clips, AnimationConfig(pairs=count))
    assert len(set(drawn)) == count
    lines = (f"{source},{driving}\n" for source, driving in drawn)
    (work / "pairs.csv").write_text("source,driving\n" + "".join(lines), encoding="utf-8")
    known = {each.clip_id for each in clips}
    with timed("pairs read", count):
        assert read_pairs(work / "pairs.csv", known) == drawn


def driver(count: int, work: Path) -> None:
    """An evaluation without a model: the work on Ray, then what the driver collects."""
    data = {"model": "none", "clips": "none", "out": str(work / "out"), "scale": {"actors": (2, 2)}}
    data["scale"]["cpus_per_actor"] = 0.9  # type: ignore[index]
    config = EvaluateConfig.model_validate(data)
    jobs = [EvaluationJob("reconstruction", name, name) for name in (clip(i).clip_id for i in range(count))]
    with patch.object(program, "Evaluator", EmptyEvaluator), ray_session(), shared(config.out) as probe:
        list(program.process(config, jobs[:16], probe))  # Ray starts its processes
        with timed("work", count):
            assert not any(program.process(config, jobs[16:], probe))
    with timed("results read", count):
        results = program._results(Path(config.out), jobs)
    with timed("frames collected", count):
        program._write_frames(Path(config.out), results)
    with timed("table and means", count):
        write_clips(work / "clips.parquet", results, "clips")
        assert len(results) == count
        assert headlines(results)


def main() -> None:
    """Print the figures, one a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asks = {"pairs": pairs, "driver": driver}
    parser.add_argument("--ask", action="append", choices=asks, help="may be given often; default: all")
    parser.add_argument("--clips", type=int, default=20_000, help="how many")
    arguments = parser.parse_args()
    set_up_logging()
    for ask in arguments.ask or asks:
        with tempfile.TemporaryDirectory() as folder:
            asks[ask](arguments.clips, Path(folder))


if __name__ == "__main__":
    main()
