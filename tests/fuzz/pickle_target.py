"""Search for bytes that make the reader of pickles do anything but read plain data or raise ``UserError``.

    python tests/fuzz/pickle_target.py --runs 10000000

Runs in child processes: one that dies is a crash, its input is kept and the next child continues. With
atheris (the extra ``fuzz``) the search follows the coverage of the code; without it, samples are changed at
random. Prints one line: date, executions, crashes.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import mmap
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

INPUT_LENGTH = 4096  # bytes at most
MEMORY = 1 << 30  # bytes a child may take beside what it has after its imports
SECONDS = 20  # one input may take
MOST_CRASHES = 20  # enough to know
INTERRUPTED = 72  # exit code of libFuzzer that a signal ended: no crash, and the next child continues


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--runs", type=int, default=100_000)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--folder", type=Path, help="keeps inputs that crash, and those found")
    arguments.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.child:
        _child(given.child, given.folder, given.runs, given.seed)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        return _supervise(folder, given.runs, given.seed)


# ---- the parent --------------------------------------------------------------------------------------------


def _supervise(folder: Path, runs: int, seed: int) -> int:
    """Start children until so many inputs were tried; count those that died."""
    for name in ("corpus", "crashes"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    counter = folder / "count"
    done = crashes = 0
    started = time.monotonic()
    while done < runs and crashes < MOST_CRASHES:
        counter.write_bytes(bytes(8))
        command = [sys.executable, __file__, "--child", str(counter), "--folder", str(folder)]
        command += ["--runs", str(runs - done), "--seed", str(seed + crashes)]
        child = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
        tried: int = struct.unpack("<Q", counter.read_bytes())[0]
        done += tried
        if child.returncode not in (0, INTERRUPTED):
            crashes += 1
            sys.stderr.write(child.stderr.decode(errors="replace")[-3000:])
        if not tried:
            sys.stderr.write("the child did not start\n")
            break
    kind = "guided by coverage" if _has_atheris() else "random changes"
    minutes = (time.monotonic() - started) / 60
    today = datetime.date.today().isoformat()
    print(f"{today}: {done} executions ({kind}), {crashes} crashes, {minutes:.1f} minutes")  # noqa: T201
    return 1 if crashes or done < runs else 0


def _has_atheris() -> bool:
    return importlib.util.find_spec("atheris") is not None


# ---- the child ---------------------------------------------------------------------------------------------


def _child(counter: Path, folder: Path, runs: int, seed: int) -> None:
    with counter.open("r+b") as file:
        count = mmap.mmap(file.fileno(), 8)  # survives a crash
    if _has_atheris():
        _guided(count, folder, runs, seed)
    else:
        _unguided(count, folder, runs, seed)


def _guided(count: mmap.mmap, folder: Path, runs: int, seed: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["safa.unpickle", "safa.safe_pickle"]):
        from safa import safe_pickle  # noqa: F401
    from tests.fuzz.pickle_samples import hostile_pickles, valid_pickles

    samples = [*valid_pickles(), *hostile_pickles().values()]
    for number, data in enumerate(samples):
        if len(data) <= INPUT_LENGTH:
            (folder / "corpus" / f"sample-{number}").write_bytes(data)
    _write_dictionary(folder / "words")
    target = _target(folder)
    _bound_memory()

    def counted(data: bytes) -> None:
        target(data)
        count[:8] = struct.pack("<Q", struct.unpack("<Q", count[:8])[0] + 1)

    settings = [f"-runs={runs}", f"-seed={seed + 1}", f"-max_len={INPUT_LENGTH}", f"-timeout={SECONDS}"]
    settings += [f"-artifact_prefix={folder / 'crashes'}/", f"-dict={folder / 'words'}", "-rss_limit_mb=0"]
    atheris.Setup([sys.argv[0], *settings, str(folder / "corpus")], counted)
    atheris.Fuzz()


def _unguided(count: mmap.mmap, folder: Path, runs: int, seed: int) -> None:
    from tests.fuzz.pickle_samples import hostile_pickles, valid_pickles

    samples = [data for data in [*valid_pickles(), *hostile_pickles().values()] if len(data) <= INPUT_LENGTH]
    target = _target(folder)
    _bound_memory()
    chance = random.Random(seed)
    for number in range(runs):
        data = changed(chance, samples)
        last = folder / "crashes" / "last"
        try:
            target(data)
        except BaseException:
            last.with_name(f"seed-{seed}-{number}").write_bytes(data)
            raise
        finally:
            count[:8] = struct.pack("<Q", number + 1)


def changed(chance: random.Random, samples: list[bytes]) -> bytes:
    """A sample with a few bytes changed, taken out, put in, or replaced by a piece of another sample."""
    data = bytearray(chance.choice(samples))
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(len(data) + 1)
        length = chance.choice((1, 1, 1, 2, 4, 16))
        other = chance.choice(samples)
        start = chance.randrange(len(other))
        data[at : at + chance.choice((0, length))] = chance.choice(
            (
                chance.randbytes(length),
                other[start : start + length],
                bytes([chance.choice(b"\x00\x01\x7f\x80\xff")]),
            )
        )
    return bytes(data[:INPUT_LENGTH])


def _target(folder: Path) -> Any:
    """What is tried: any other exception than ``UserError``, or a value that is not plain, is a fault."""
    import io

    from safa.data.landmarks import points_of_dictionary
    from safa.errors import UserError
    from safa.safe_pickle import dense, load_data_pickle, load_object_npy
    from tests.fuzz.pickle_samples import assert_plain

    path = folder / "input.npy"

    def attempt(data: bytes) -> None:
        try:
            if data.startswith(b"\x93NUMPY"):
                path.write_bytes(data)
                value = load_object_npy(path)
            else:
                value = load_data_pickle(io.BytesIO(data), "input")
        except UserError as error:
            if "\n" in str(error):
                raise AssertionError("more than one line") from error
            return
        assert_plain(value)
        for part in [value, *(value.values() if isinstance(value, dict) else [])]:
            try:
                dense(part, "input")
            except UserError:
                continue
        try:
            points_of_dictionary(value)
        except ValueError:
            return

    return attempt


def _bound_memory() -> None:
    """More than the child has now and a little is a fault, not a slow machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _write_dictionary(path: Path) -> None:
    """Names and pieces that chance alone would not find, in the form that libFuzzer reads."""
    from safa.unpickle.symbols import known_names

    words = [f"{module}\n{name}\n".encode() for module, name in known_names()]
    words += [
        b"S'f8'\n",
        b"S'O8'\n",
        b"I-1\n",
        b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t",
        b"\x85R",
        b"tb",
        b"\x94",
    ]
    lines = ['"' + "".join(f"\\x{byte:02x}" for byte in word) + '"' for word in words]
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
