"""What the driver of a pipeline costs where the work itself costs nothing: time, memory, pairs.

- ``pairs``: drawing as many pairs as there are clips, and reading them back from a list.

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

from safa.config.inference import AnimationConfig
from safa.data.clip_store import ClipInfo
from safa.evaluation.jobs import draw_pairs, read_pairs

OF_A_PERSON = 20  # clips


def clip(number: int) -> ClipInfo:
    """A clip that exists in name only."""
    person = f"id{number // OF_A_PERSON:06d}"
    name = f"{person}#v{number:07d}#000000#000002"
    return ClipInfo(number, name, person, "v", "test", 0, 2, 2, 25.0, 64, 64, (0, 0, 64, 64), "test")


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


def main() -> None:
    """Print the figures, one a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asks = {"pairs": pairs}
    parser.add_argument("--ask", action="append", choices=asks, help="may be given often; default: all")
    parser.add_argument("--clips", type=int, default=20_000, help="how many")
    arguments = parser.parse_args()
    for ask in arguments.ask or asks:
        with tempfile.TemporaryDirectory() as folder:
            asks[ask](arguments.clips, Path(folder))


if __name__ == "__main__":
    main()
