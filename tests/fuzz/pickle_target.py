"""Search for bytes that make the reader of pickles do anything but read plain data or raise ``UserError``.

    python tests/fuzz/pickle_target.py --runs 10000000

Runs in child processes: one that dies is a crash, its input is kept and the next child continues. With
atheris (the extra ``fuzz``) the search follows the coverage of the code; without it, samples are changed at
random. Prints one line: date, executions, crashes.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.fuzz.changes import changed  # noqa: E402
from tests.fuzz.children import Counter, bound_memory, supervise  # noqa: E402

INPUT_LENGTH = 4096  # bytes at most
SECONDS = 20  # one input may take


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
        kind = "guided by coverage" if _has_atheris() else "random changes"
        good = supervise([sys.executable, __file__], folder, given.runs, given.seed, kind)
        return 0 if good else 1


def _has_atheris() -> bool:
    return importlib.util.find_spec("atheris") is not None


# ---- the child ---------------------------------------------------------------------------------------------


def _child(path: Path, folder: Path, runs: int, seed: int) -> None:
    search = _guided if _has_atheris() else _unguided
    search(Counter(path), folder, runs, seed)


def _guided(counter: Counter, folder: Path, runs: int, seed: int) -> None:
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
    bound_memory()

    def counted(data: bytes) -> None:
        target(data)
        counter.add()

    settings = [f"-runs={runs}", f"-seed={seed + 1}", f"-max_len={INPUT_LENGTH}", f"-timeout={SECONDS}"]
    settings += [f"-artifact_prefix={folder / 'crashes'}/", f"-dict={folder / 'words'}", "-rss_limit_mb=0"]
    atheris.Setup([sys.argv[0], *settings, str(folder / "corpus")], counted)
    atheris.Fuzz()


def _unguided(counter: Counter, folder: Path, runs: int, seed: int) -> None:
    from tests.fuzz.pickle_samples import hostile_pickles, valid_pickles

    samples = [data for data in [*valid_pickles(), *hostile_pickles().values()] if len(data) <= INPUT_LENGTH]
    target = _target(folder)
    bound_memory()
    chance = random.Random(seed)
    for number in range(runs):
        data = changed(chance, samples, INPUT_LENGTH)
        last = folder / "crashes" / "last"
        try:
            target(data)
        except BaseException:
            last.with_name(f"seed-{seed}-{number}").write_bytes(data)
            raise
        finally:
            counter.add()


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
