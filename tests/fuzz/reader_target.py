"""Search for bytes that make any reader do anything but read, or refuse in one line.

    python tests/fuzz/reader_target.py --runs 20000 [--reader photo.png]

Each reader's own file is changed at random and read in a child process with 1 GiB more memory than it has:
what is no one-line error, dies, or takes longer than 20 s is a crash, and its input is kept. Readers that
start a process for each file try a fiftieth. Prints one line for each reader: date, executions, crashes.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.fuzz.changes import changed  # noqa: E402
from tests.fuzz.children import Counter, bound_memory, supervise  # noqa: E402
from tests.hostile.readers import READERS, Reader, refusal  # noqa: E402

SECONDS = 20  # one input may take
SLOWER = 50  # times, where a process is started


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--runs", type=int, default=1000, help="inputs for each reader")
    arguments.add_argument("--reader", help="name of its file; default: all of them")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--folder", type=Path, help="keeps inputs that crash")
    arguments.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    chosen = [reader for reader in READERS if given.reader in (None, reader.name)]
    if given.child:
        _child(chosen[0], Counter(given.child), given.folder, given.runs, given.seed)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        top = given.folder or Path(temporary)
        good = [_search(reader, top, given.runs, given.seed) for reader in chosen]
    return 0 if all(good) and good else 1


def _search(reader: Reader, top: Path, runs: int, seed: int) -> bool:
    command = [sys.executable, __file__, "--reader", reader.name]
    count = max(1, runs // SLOWER) if reader.is_slow else runs
    folder = top / reader.name.replace("/", "-")
    return supervise(command, folder, count, seed, f"{reader.name}, random changes")


def _child(reader: Reader, counter: Counter, folder: Path, runs: int, seed: int) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / reader.name
        path.parent.mkdir(parents=True, exist_ok=True)
        reader.write(path)
        sample = path.read_bytes()
        if refusal(lambda: reader.read(path)):
            raise AssertionError("it does not read its own file")
        bound_memory()
        for number in range(runs):
            data = changed(chance, [sample])
            path.write_bytes(data)
            kept = folder / "crashes" / f"seed-{seed}-{number}"
            kept.write_bytes(data)
            counter.add()
            signal.alarm(SECONDS)  # ends the process
            refusal(lambda: reader.read(path))
            signal.alarm(0)
            kept.unlink()


if __name__ == "__main__":
    sys.exit(main())
