"""What a file is that should have been one of torch's: people often have something else under its name."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from safa.unpickle.work import shown


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
)
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
