"""Files: writing them atomically, and reading them alike from a disk or an object store.

A location is a path, or a URI that begins with s3://, gs:// or file://. Credentials and region are those of
the environment, or of the URI (``s3://bucket/folder?region=eu-west-1``), as pyarrow reads them. In a URI,
characters such as ``#`` are written as %23.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TextIO
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import pyarrow as pa
from pyarrow import fs
from pydantic import PlainValidator

from safa.errors import ClipError, FailureCode

TEMPORARY = ".tmp-"  # begins the name of a file that is not complete; no reader looks at those


# ---- atomic writes -----------------------------------------------------------------------------------------


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give the block a temporary path; the file that it writes there becomes ``path`` at the block's end.

    The name is random, so that two writers never meet, and keeps the suffix, by which many programs choose a
    format. The data is on disk before the file appears. If the block raises, nothing appears.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write a file atomically; text is UTF-8."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    atomic_write(path, json.dumps(value, indent=2, default=str) + "\n")


@contextmanager
def atomic_dir(folder: Path) -> Iterator[Path]:
    """Give the block a temporary folder, which replaces ``folder`` at the block's end.

    If the block raises, nothing appears.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    name = f"{TEMPORARY}{uuid.uuid4().hex[:12]}"
    temporary, replaced = folder.with_name(name), folder.with_name(f"{name}-replaced")
    temporary.mkdir()
    try:
        yield temporary
        for path in [*temporary.iterdir(), temporary]:
            _flush(path)
        if folder.exists():  # a folder cannot be renamed onto a full one
            folder.rename(replaced)
        temporary.rename(folder)
        _flush(folder.parent)
    finally:
        for leftover in (temporary, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete the half-written files of writers that were killed. Nobody else may be writing to ``folder``."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- locations ---------------------------------------------------------------------------------------------


STORES = ("s3://", "gs://", "file://")


def is_uri(location: Path | str) -> bool:
    """Whether this is the URI of something in an object store, not a path."""
    return isinstance(location, str) and location.startswith(STORES)


def _location(value: object) -> Path | str:
    if isinstance(value, Path) or is_uri(value if isinstance(value, str) else ""):
        return value  # type: ignore[return-value]
    if isinstance(value, str):
        if "://" in value:
            raise ValueError(f"must be a path, or begin with {', '.join(STORES)}")
        return Path(value)
    raise ValueError("must be a path or a URI")


# The type of a setting: a path, or a URI in an object store.
Location = Annotated[Path | str, PlainValidator(_location)]


@dataclass(frozen=True, order=True)
class Entry:
    """One item of a folder."""

    name: str
    location: str  # path or URI
    is_folder: bool

    @property
    def stem(self) -> str:
        """The name without the suffix of a file; a folder has no suffix, whatever dots its name has."""
        return self.name if self.is_folder else PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The suffix of a file, with its dot; empty for a folder."""
        return "" if self.is_folder else PurePosixPath(self.name).suffix


def name_of(location: Location) -> str:
    """The last part of a path or a URI."""
    if is_uri(location):
        return PurePosixPath(unquote(urlsplit(str(location)).path)).name
    return Path(location).name


def absolute(location: Location) -> str:
    """The location as text that does not depend on the working directory."""
    return str(location) if is_uri(location) else str(Path(location).absolute())


def entries(folder: Location) -> Iterator[Entry]:
    """List a folder, in no particular order.

    Raises:
        OSError: no such folder, or it cannot be read.
    """
    if not is_uri(folder):
        for path in Path(folder).iterdir():
            yield Entry(path.name, str(path), path.is_dir())
        return
    uri = str(folder)
    store, path = fs.FileSystem.from_uri(uri)
    for info in store.get_file_info(fs.FileSelector(path)):
        yield Entry(info.base_name, _child(uri, info.base_name), info.type == fs.FileType.Directory)


@contextmanager
def open_text(location: Location) -> Iterator[TextIO]:
    """Open UTF-8 text, with or without a byte order mark, for reading line by line.

    Raises:
        OSError: it cannot be read.
    """
    if is_uri(location):
        store, path = fs.FileSystem.from_uri(str(location))
    else:
        store, path = fs.LocalFileSystem(), str(location)
    with store.open_input_file(path) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        yield text


def copy_object(uri: str, target: Path) -> None:
    """Copy an object of a store to a local file.

    Raises:
        ClipError: ``unavailable``, ``blocked`` or ``timeout``.
    """
    with _store_errors():
        store, path = fs.FileSystem.from_uri(uri)
        _copy(store, path, target)


@contextmanager
def local_copy(location: str, companions: Sequence[str] = ()) -> Iterator[Path]:
    """Give the block a local path of a file or a folder of files; a copy is deleted at the block's end.

    What does not exist has no copy either: opening it fails as for a local path.

    Args:
        companions: names of files beside it that are copied too, as far as they exist.

    Raises:
        ClipError: ``blocked`` or ``timeout``.
    """
    if not is_uri(location):
        yield Path(location)
        return
    with tempfile.TemporaryDirectory(prefix="safa-") as scratch:
        with _store_errors():
            store, path = fs.FileSystem.from_uri(location)
            parent = PurePosixPath(path).parent
            for source in (path, *(str(parent / name) for name in companions)):
                _copy_entry(store, source, Path(scratch))
        yield Path(scratch) / PurePosixPath(path).name


def _copy_entry(store: fs.FileSystem, path: str, folder: Path) -> None:
    target = folder / PurePosixPath(path).name
    kind = store.get_file_info(path).type
    if kind == fs.FileType.File:
        _copy(store, path, target)
    elif kind == fs.FileType.Directory:
        target.mkdir()
        for info in store.get_file_info(fs.FileSelector(path)):
            if info.type == fs.FileType.File:
                _copy(store, info.path, target / info.base_name)


def _copy(store: fs.FileSystem, path: str, target: Path) -> None:
    with store.open_input_stream(path) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file)


def _child(folder: str, name: str) -> str:
    parts = urlsplit(folder)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name)}"))


@contextmanager
def _store_errors() -> Iterator[None]:
    """Turn the errors of a store into ``ClipError``."""
    try:
        yield
    except FileNotFoundError:
        raise ClipError(FailureCode.UNAVAILABLE, "no such object") from None
    except PermissionError as error:
        raise ClipError(FailureCode.BLOCKED, f"access to the store is denied: {error}") from None
    except (OSError, pa.ArrowException) as error:
        # pyarrow gives a refusal of S3 no type of its own, only a message.
        denied = "ACCESS_DENIED" in str(error) or "AccessDenied" in str(error)
        code = FailureCode.BLOCKED if denied else FailureCode.TIMEOUT
        raise ClipError(code, f"{type(error).__name__}: {error}") from None
