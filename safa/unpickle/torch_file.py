"""Files of ``torch.save``, read without torch's own reader.

torch's reader runs no code with ``weights_only=True``, but it ends the process on a key that is a deep tuple,
inflates records to a thousand times the file, and shows one number as a tensor of millions. Here the pickle
goes through the interpreter of this package, and the numbers of a tensor are copied once from the file.

Both layouts are read: a zip archive (since version 1.6), and pickles with the numbers behind them (before).
People often have something else under such a name, so the refusal of another file says what it is.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from safa.errors import UserError
from safa.limits import check_limit
from safa.unpickle.machine import Machine
from safa.unpickle.plain import check_plain
from safa.unpickle.tensors import (
    FindStorage,
    Storage,
    StorageName,
    StorageTable,
    read_legacy,
    read_numbers,
)
from safa.unpickle.work import Damaged, Forbidden, Work, shown
from safa.unpickle.zip_records import ZIP_START, ZipRecords

LONGEST_PICKLE = 64 << 20  # bytes; one of 10,000 tensors has 2 MB
_START = 512  # bytes that tell what a file is
_ADVICE = "Get the file from its owner again."


def load_torch_file(path: Path) -> Any:
    """Read what ``torch.save`` wrote: tensors on the CPU, numbers, strings and containers of them.

    Tensors that shared their numbers share them again, and the numbers take as many bytes as in the file.
    Parameters become plain tensors, shapes tuples; attributes of a state dict (``_metadata``) are left out.

    Raises:
        UserError: there is no such file, it is of another kind, it is damaged, or it asks for anything else.
    """
    where = str(path)
    try:
        if not path.is_file():
            raise UserError("is not a file" if path.exists() else "no such file", where, "Check the path.")
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            check_limit("weights_bytes", size, where)
            return _load(file, size, where)
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror or error})", where) from None


def _load(file: BinaryIO, size: int, where: str) -> Any:
    start = file.read(_START)
    kind = kind_of_start(start)
    if kind:
        raise UserError(kind.what, where, kind.fix)
    try:
        return (_from_zip if start.startswith(ZIP_START) else _from_pickles)(file, size, where)
    except Forbidden as error:
        raise UserError(
            f"refused to unpickle: {error}", where, "Get the file from its owner; nothing in it was run."
        ) from None
    except Damaged as error:
        raise UserError(f"not a readable PyTorch file ({error})", where, _ADVICE) from None
    except ValueError as error:  # text in another encoding, a number that is none
        raise UserError(f"not a readable PyTorch file ({type(error).__name__})", where, _ADVICE) from None
    except MemoryError:
        raise UserError("does not fit into memory", where) from None


def _from_zip(file: BinaryIO, size: int, where: str) -> Any:
    records = ZipRecords(file, size)
    kind = kind_of_archive(records.names)
    if kind:
        raise UserError(kind.what, where, kind.fix)
    records.check()
    order = records.read("byteorder", 16).decode("ascii") if "byteorder" in records.by_name else "little"
    if order not in ("little", "big"):
        raise Damaged("a byte order that is none")
    table = StorageTable(size, Work(size))

    def fill(name: StorageName, flat: torch.Tensor) -> None:
        if records.seek(f"data/{name.key}") != name.size:
            raise Damaged("a storage of two lengths")
        read_numbers(file, flat, order != sys.byteorder, records.by_name[f"data/{name.key}"].checksum)

    def find(name: StorageName) -> Storage:
        return table.find(name, functools.partial(fill, name))

    pickled = records.read("data.pkl", LONGEST_PICKLE)
    value = Machine(pickled, Work(len(pickled)), find=find).run()
    check_plain(value, len(pickled))
    return value


def _from_pickles(file: BinaryIO, size: int, where: str) -> Any:
    file.seek(0)
    head = file.read(min(size, LONGEST_PICKLE))
    work = Work(len(head))

    def load(data: bytes, start: int, find: FindStorage) -> tuple[Any, int]:
        machine = Machine(data, work, start, find)
        return machine.run(), machine.at

    value = read_legacy(file, head, size, load, Work(size))
    check_plain(value, len(head))
    return value


@dataclass(frozen=True)
class OtherKind:
    """A file that holds no weights to read.

    Attributes:
        what: says so, fit to follow the file's name.
        fix: what the user can do.
    """

    what: str
    fix: str


_AGAIN = "Get the file from its owner again."
_UNPACK = "Unpack it, and give the file inside."
_PAGE = "A download saved the page instead of the file; download the file itself."
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"RIFF", b"II*\x00", b"MM\x00*")
_STARTS: tuple[tuple[bytes, OtherKind], ...] = (
    (
        b"version https://git-lfs",
        OtherKind("is a Git LFS pointer, not the file it stands for", "Run: git lfs pull."),
    ),
    (b"\x1f\x8b", OtherKind("is a gzip archive", _UNPACK)),
    (b"\xfd7zXZ\x00", OtherKind("is an xz archive", _UNPACK)),
    (b"BZh", OtherKind("is a bzip2 archive", _UNPACK)),
    (b"\x28\xb5\x2f\xfd", OtherKind("is a Zstandard archive", _UNPACK)),
    (b"7z\xbc\xaf\x27\x1c", OtherKind("is a 7-Zip archive", _UNPACK)),
    (b"Rar!", OtherKind("is a RAR archive", _UNPACK)),
    (b"\x89HDF", OtherKind("is an HDF5 file, not one of PyTorch", "Get the weights for PyTorch.")),
    (b"\x93NUMPY", OtherKind("is a NumPy array (.npy), not weights of PyTorch", "Check the path.")),
    (b"%PDF", OtherKind("is a PDF document", "Check the path.")),
    *((begins, OtherKind("is a picture", "Check the path.")) for begins in _PICTURES),
    (b"\x1a\x45\xdf\xa3", OtherKind("is a video", "Check the path.")),
)
_FTYP = b"ftyp"  # MP4, MOV, HEIC and AVIF
_FTYP_AT = 4
_TAR = b"ustar"
_TAR_AT = 257
_SAFETENSORS = re.compile(rb"[\s\S]{8}\{\s*\"")


def kind_of_start(start: bytes) -> OtherKind | None:
    """What the first 512 bytes say; None if they may be a file of torch's."""
    if not start:
        return OtherKind("is an empty file", _AGAIN)
    if not start.strip(b"\x00"):
        return OtherKind("begins with zeros: a download that was never finished", _AGAIN)
    for begins, kind in _STARTS:
        if start.startswith(begins):
            return kind
    if start[_FTYP_AT : _FTYP_AT + len(_FTYP)] == _FTYP:
        return OtherKind("is a video or a picture", "Check the path.")
    if start[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        return OtherKind("is a tar archive", _UNPACK)
    if _SAFETENSORS.match(start):
        return OtherKind("is a safetensors file", "Give it the suffix .safetensors.")
    return _kind_of_text(start)


def _kind_of_text(start: bytes) -> OtherKind | None:
    try:
        text = start.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:  # otherwise the last character is cut
            return None
        text = start[: error.start].decode("utf-8-sig").strip()
    if not all(sign.isprintable() or sign in "\r\n\t" for sign in text):
        return None
    low = text.lower()
    if low.startswith("<!doctype html") or "<html" in low or "<head" in low:
        return OtherKind("is an HTML page", _PAGE)
    if low.startswith("<"):
        return OtherKind("is an XML page", _PAGE)
    return OtherKind("is a text file, not weights of PyTorch", "Check the path.")


def kind_of_archive(names: Collection[str]) -> OtherKind | None:
    """What the names of a zip archive's records say; None if ``torch.save`` may have written it."""
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        return OtherKind(
            "is a TorchScript archive, which is a program, not weights of torch.save",
            "Save the state dict of the model with torch.save.",
        )
    if "data.pkl" in inside:
        return None
    first = next(iter(names), "")
    held = f" (it holds {shown(first)})" if first else ""
    return OtherKind(f"is a zip archive, but not one of torch.save{held}", "Check the path.")
