"""Files of a source: on a disk that all nodes share, or in an object store, read alike.

An address begins with s3://, gs:// or file://; anything else is a path. Credentials and region are those of
the environment, or of the address (``s3://bucket/folder?region=eu-west-1``), as pyarrow reads them. In an
address, characters such as ``#`` are written as %23.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TextIO
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import pyarrow as pa
from pyarrow import fs

from safa.config.preprocess import Place, is_address
from safa.data.schema import Code, Refused


@dataclass(frozen=True, order=True)
class Entry:
    """Something in a folder: its name, its path or address, and whether it is a folder."""

    name: str
    where: str
    is_folder: bool

    @property
    def stem(self) -> str:
        """The name without the ending of a file; a folder's is no ending."""
        return self.name if self.is_folder else PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The ending of a file, with its dot."""
        return "" if self.is_folder else PurePosixPath(self.name).suffix


def name_of(place: Place) -> str:
    """The last part of a path or an address."""
    return PurePosixPath(unquote(urlsplit(str(place)).path)).name if is_address(place) else Path(place).name


def absolute(place: Place) -> str:
    """A path that does not depend on the working directory; an address never does."""
    return str(place) if is_address(place) else str(Path(place).absolute())


def entries(folder: Place) -> Iterator[Entry]:
    """What is in a folder, in no order.

    Raises:
        OSError: no such folder, or it cannot be read.
    """
    if not is_address(folder):
        for path in Path(folder).iterdir():
            yield Entry(path.name, str(path), path.is_dir())
        return
    address = str(folder)
    store, path = fs.FileSystem.from_uri(address)
    for info in store.get_file_info(fs.FileSelector(path)):
        yield Entry(info.base_name, _child(address, info.base_name), info.type == fs.FileType.Directory)


@contextmanager
def open_text(place: Place) -> Iterator[TextIO]:
    """A UTF-8 text for reading line by line, with or without a byte order mark.

    Raises:
        OSError: it cannot be read.
    """
    if is_address(place):
        store, path = fs.FileSystem.from_uri(str(place))
    else:
        store, path = fs.LocalFileSystem(), str(place)
    with store.open_input_file(path) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        yield text


def copy_object(address: str, target: Path) -> None:
    """Copy an object of a store to a local file.

    Raises:
        Refused: ``unavailable``, ``blocked`` or ``timeout``.
    """
    with _told():
        store, path = fs.FileSystem.from_uri(address)
        _copy(store, path, target)


@contextmanager
def local_copy(place: str, companions: Sequence[str] = ()) -> Iterator[Path]:
    """A file or a folder of files as a local path, for the block; a copy is gone afterwards.

    What is not there is not there locally either: whoever opens it tells.

    Args:
        companions: names of files beside it that come along, those that exist.

    Raises:
        Refused: ``blocked`` or ``timeout``.
    """
    if not is_address(place):
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="safa-") as scratch:
        with _told():
            store, path = fs.FileSystem.from_uri(place)
            parent = PurePosixPath(path).parent
            for source in (path, *(str(parent / name) for name in companions)):
                _fetch(store, source, Path(scratch))
        yield Path(scratch) / PurePosixPath(path).name


def _fetch(store: fs.FileSystem, path: str, folder: Path) -> None:
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
def _told() -> Iterator[None]:
    """A store's errors as refusals."""
    try:
        yield
    except FileNotFoundError:
        raise Refused(Code.UNAVAILABLE, "no such object") from None
    except PermissionError as error:
        raise Refused(Code.BLOCKED, f"the store refuses us: {error}") from None
    except (OSError, pa.ArrowException) as error:
        # pyarrow tells a refusal of S3 apart only in words.
        denied = "ACCESS_DENIED" in str(error) or "AccessDenied" in str(error)
        code = Code.BLOCKED if denied else Code.TIMEOUT
        raise Refused(code, f"{type(error).__name__}: {error}") from None
