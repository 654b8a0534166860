"""Files: writing them atomically, and reading them alike from a disk or an object store.

A location is a path, or a URI that begins with s3://, gs:// or file://. Credentials and region are those of
the environment, or of the URI (``s3://bucket/folder?region=eu-west-1``), as pyarrow reads them. In a URI,
characters such as ``#`` are written as %23.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TextIO
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import pyarrow as pa
from pyarrow import fs
from pydantic import AfterValidator, PlainValidator

from safa.errors import ClipError, FailureCode, UserError
from safa.paths import expanded

UPLOAD_BYTES = 8 * 2**20  # in memory while a file is uploaded
STORE_FIX = "Check the store's address, your keys and the network, then start again."
DISK_FIX = "Check the location, and that you may read and write there."
# "When getting information for key 'a' in bucket 'b': AWS Error CODE during OPERATION operation: message"
_OF_STORE = re.compile(r"AWS Error (.+?) during (\w+) operation: (.*)")
TEMPORARY = ".tmp-"  # what the name of a file that is not complete begins with; no reader looks at those


# ---- what can be written ---


def check_folder(folder: Location) -> None:
    """Make a local folder that something is to be written into, and try that; a store is not asked.

    Raises:
        UserError: it cannot be: a file is in its place or above it, or the disk refuses.
    """
    if is_uri(folder):
        return
    with _reporting_writes(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def check_output(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Check before the work that a file can be written, and that it is not one of those that are read.

    Raises:
        UserError: it cannot, or it is.
    """
    check_folder(path.parent)
    with _reporting_writes(path):
        try:
            path.stat()
        except FileNotFoundError:
            return
        if not path.is_file():  # a device, too, would be replaced by the file
            what = "is a folder" if path.is_dir() else "is there and is no file"
            raise UserError(what, str(path), "Give the name of a file.")
        same = [each for each in inputs if each.exists() and path.samefile(each)]
    if same:
        raise UserError("is an input, too", str(path), "Give another name, so that it is not overwritten.")


@contextmanager
def _reporting_writes(location: Location) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError):
        what = "cannot be written (a file is in the place of a folder)"
        raise UserError(what, shown(location), "Give another path.") from None
    except (OSError, ValueError) as error:  # ValueError: a name that holds a NUL
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        fix = "Check the path, its permissions and the room on the disk."
        raise UserError(f"cannot be written ({reason})", shown(location), fix) from None


# ---- atomic writes -----------------------------------------------------------------------------------------


@contextmanager
def atomic_file(location: Location) -> Iterator[Path]:
    """A temporary local path; the file that the block writes there becomes ``location`` at its end.

    On a disk the path lies beside the file, so that becoming it is one rename, after the data is on the
    disk. For an object store it lies in local scratch and is copied in one upload; an object appears when
    that is complete. If the block raises, nothing appears. The path keeps the suffix, by which many programs
    choose a format; its name is random, so that two writers never meet.

    Raises:
        UserError: the store cannot be written to.
    """
    if is_uri(location):
        with tempfile.TemporaryDirectory(prefix="safa-") as scratch:
            path = Path(scratch) / f"upload{PurePosixPath(name_of(location)).suffix}"
            yield path
            upload(path, str(location))
        return
    path = Path(location)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(location: Location, data: bytes | str) -> None:
    """Write a file that appears whole or not at all; text is UTF-8."""
    with atomic_file(location) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def write_json(location: Location, value: Mapping[str, Any]) -> None:
    """Write JSON that appears whole or not at all."""
    atomic_write(location, json.dumps(value, indent=2, default=str) + "\n")


@contextmanager
def atomic_dir(folder: Location) -> Iterator[Path]:
    """A temporary local folder that becomes ``folder`` at the block's end, in place of one that is there.

    In an object store its files are uploaded one by one, and ``<folder>.json`` last, with their names and
    sizes: a folder is there when that file is (``dir_names``). If the block raises, nothing appears.

    Raises:
        UserError: the store cannot be written to.
    """
    if is_uri(folder):
        with tempfile.TemporaryDirectory(prefix="safa-") as scratch:
            path = Path(scratch) / "folder"
            path.mkdir()
            yield path
            _upload_dir(path, folder)
        return
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    name = f"{TEMPORARY}{uuid.uuid4().hex[:12]}"
    temporary, replaced = target.with_name(name), target.with_name(f"{name}-replaced")
    temporary.mkdir()
    try:
        yield temporary
        for path in [*temporary.iterdir(), temporary]:
            _flush(path)
        if target.exists():  # a folder cannot be renamed onto a full one
            target.rename(replaced)
        temporary.rename(target)
        _flush(target.parent)
    finally:
        for leftover in (temporary, replaced):
            shutil.rmtree(leftover, ignore_errors=True)


def _upload_dir(path: Path, folder: Location) -> None:
    delete(_dir_manifest(folder))  # from here on the old folder is not there any more
    files = sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        upload(file, str(join(folder, *file.relative_to(path).parts)))
    sizes = {str(file.relative_to(path)): file.stat().st_size for file in files}
    write_json(_dir_manifest(folder), {"files": sizes})


def _dir_manifest(folder: Location) -> Location:
    parent, name = split(folder)
    return join(parent, f"{name}.json")


def dir_names(parent: Location) -> list[str]:
    """Names of the folders in ``parent`` that ``atomic_dir`` wrote, sorted; none without a ``parent``."""
    if not is_folder(parent):
        return []
    if is_uri(parent):
        names = [entry.stem for entry in entries(parent) if entry.suffix == ".json"]
    else:
        names = [entry.name for entry in entries(parent) if entry.is_folder]
    return sorted(name for name in names if not name.startswith("."))


def dir_exists(folder: Location) -> bool:
    """Whether a folder that ``atomic_dir`` writes is there, complete."""
    return exists(_dir_manifest(folder)) if is_uri(folder) else Path(folder).is_dir()


@contextmanager
def local_dir(folder: Location, *, listed: bool = True) -> Iterator[Path]:
    """A folder that ``atomic_dir`` wrote as a local path: itself, or a copy that lasts as long as the block.

    Args:
        listed: refuse a folder in a store that has no list of its files; otherwise one is taken as it is,
            such as another program has uploaded.

    Raises:
        UserError: it is not there, is not complete, or the store refuses; one of the block names the folder,
            not its copy.
    """
    if not is_uri(folder):
        yield Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="safa-") as scratch:
        path = Path(scratch) / name_of(folder)
        for name, size in _files_of(folder, listed).items():
            target = path / safe_relative(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_file(join(folder, *PurePosixPath(name).parts), target)
            if target.stat().st_size != size:
                raise UserError(f"{name} has {target.stat().st_size} of {size} bytes", shown(folder))
        with _naming(folder, path):
            yield path


def _files_of(folder: Location, listed: bool) -> dict[str, int]:
    """Names and sizes of the files of a folder in a store: those that its list has, or else all."""
    with reporting_errors(folder):
        if listed or dir_exists(folder):
            return _listed_files(read_bytes(_dir_manifest(folder)))
        store, path = filesystem(folder)
        below = store.get_file_info(fs.FileSelector(path, recursive=True))
        return {
            str(PurePosixPath(info.path).relative_to(path)): info.size
            for info in below
            if info.type == fs.FileType.File
        }


def _listed_files(data: bytes) -> dict[str, int]:
    """Names and sizes in the list of a folder.

    Raises:
        ValueError: it is no such list.
    """
    try:
        files = json.loads(data)["files"]
    except (KeyError, TypeError, RecursionError):
        raise ValueError("its list of files is none") from None
    if not isinstance(files, dict) or not all(type(size) is int for size in files.values()):
        raise ValueError("its list of files is none")
    return files


@contextmanager
def _naming(location: Location, copy: Path) -> Iterator[None]:
    """Let errors about a local copy name what it is a copy of."""
    try:
        yield
    except UserError as error:
        texts = (text.replace(str(copy), shown(location)) for text in (error.what, error.where, error.fix))
        raise type(error)(*texts) from None


def rename_dir(folder: Location, name: str) -> None:
    """Give a folder that ``atomic_dir`` wrote another name, in place of one that has it.

    Raises:
        UserError: it cannot be written to.
    """
    target = join(split(folder)[0], name)
    delete_dir(target)
    with reporting_errors(folder):
        if not is_uri(folder):
            Path(folder).rename(target)
            return
        store, path = filesystem(folder)
        _, to = filesystem(target)
        for info in store.get_file_info(fs.FileSelector(path, allow_not_found=True, recursive=True)):
            if info.type == fs.FileType.File:
                store.move(info.path, f"{to}/{PurePosixPath(info.path).relative_to(path)}")
        store.move(filesystem(_dir_manifest(folder))[1], filesystem(_dir_manifest(target))[1])


def safe_relative(name: str) -> PurePosixPath:
    """A relative path that stays in its folder.

    Raises:
        UserError: it would leave it.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise UserError("would leave its folder", repr(name))
    return path


def delete_dir(folder: Location) -> None:
    """Remove a folder that ``atomic_dir`` wrote, if it is there."""
    if not is_uri(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    delete(_dir_manifest(folder))
    store, path = filesystem(folder)
    with reporting_errors(folder), suppress(FileNotFoundError):
        store.delete_dir(path)


def remove_leftovers(folder: Location) -> None:
    """Remove what killed writers left half done in ``folder``. No other writer may be at work there.

    An object store needs none of it: there, nothing appears before it is complete.
    """
    if is_uri(folder):
        return
    folder = Path(folder)
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


_ONE_SLASH = re.compile(r"(s3|gs|file):/(?!/)")


def _location(value: object) -> Path | str:
    if isinstance(value, Path) or is_uri(value if isinstance(value, str) else ""):
        return value  # type: ignore[return-value]
    if isinstance(value, str):
        if "://" in value:
            raise ValueError(f"must be a path, or begin with {', '.join(STORES)}")
        if found := _ONE_SLASH.match(value):
            raise ValueError(f"write {found[1]}://, with two slashes")
        return expanded(value)
    raise ValueError("must be a path or a URI")


# Types of settings: a path, or a URI in an object store; a path on this machine.
Location = Annotated[Path | str, PlainValidator(_location)]
LocalPath = Annotated[Path, AfterValidator(expanded)]


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


def location(text: str) -> Location:
    """A location that a person wrote: a path, or a URI of a store.

    Raises:
        UserError: a URI of another kind.
    """
    try:
        return _location(text)
    except ValueError as error:
        raise UserError(str(error), text) from None


def join(folder: Location, *names: str) -> Location:
    """The location of something in a folder."""
    if is_uri(folder):
        uri = str(folder)
        for name in names:
            uri = _child(uri, name)
        return uri
    return Path(folder).joinpath(*names)


def split(location: Location) -> tuple[Location, str]:
    """The folder of a location, and the name of it in there."""
    if not is_uri(location):
        return Path(location).parent, Path(location).name
    uri = urlsplit(str(location))
    parent, _, name = uri.path.rstrip("/").rpartition("/")
    return urlunsplit(uri._replace(path=parent)), unquote(name)


def filesystem(location: Location) -> tuple[fs.FileSystem, str]:
    """pyarrow's file system of a location, and the path in it.

    Raises:
        UserError: a URI that names no store.
    """
    if not is_uri(location):
        return fs.LocalFileSystem(), str(location)
    uri = urlsplit(str(location))
    try:
        store, root = _store(urlunsplit(uri._replace(path="/" if uri.scheme == "file" else "")))
    except (ValueError, OSError, pa.ArrowException) as error:
        raise UserError(f"cannot be reached ({_first_line(error)})", shown(location), STORE_FIX) from None
    return store, root + unquote(uri.path) if uri.scheme != "file" else unquote(uri.path)


@lru_cache(maxsize=32)  # opening a store asks for credentials and region each time
def _store(uri: str) -> tuple[fs.FileSystem, str]:
    store, root = fs.FileSystem.from_uri(uri)
    return store, root


@contextmanager
def reporting_errors(location: Location) -> Iterator[None]:
    """Whatever a disk or store raises, as one line that names the location.

    Raises:
        UserError: in place of an operating system's or a store's error.
    """
    try:
        yield
    except FileNotFoundError:
        raise UserError(missing(location), shown(location), "Check the location.") from None
    except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: a name that holds a NUL
        reason = getattr(error, "strerror", None) or _first_line(error)
        fix = STORE_FIX if is_uri(location) else DISK_FIX
        raise UserError(f"cannot be read or written ({reason})", shown(location), fix) from None


def _first_line(error: Exception) -> str:
    """What went wrong; of a store's long sentence the end, which says it."""
    line = str(error).partition("\n")[0]
    found = _OF_STORE.search(line)
    if found and found[1] == "NO_SUCH_BUCKET":
        return "there is no such bucket"
    return "{} in {}: {}".format(*found.groups())[:200] if found else line[:200]


def shown(location: Location) -> str:
    """A location for messages: without the keys that a URI may carry."""
    if not is_uri(location):
        return str(location)
    uri = urlsplit(str(location))
    return f"{uri.scheme}://{uri.netloc.rpartition('@')[2]}{uri.path}"


def exists(location: Location) -> bool:
    """Whether a file or folder is there."""
    if not is_uri(location):
        return Path(location).exists()
    store, path = filesystem(location)
    with reporting_errors(location):
        return bool(store.get_file_info(path).type != fs.FileType.NotFound)


def missing(location: Location, what: str = "no such file or folder") -> str:
    """What to say of something that is not there: of a bucket that is not there, that it is not.

    Args:
        what: the words for all else.
    """
    if not is_uri(location):
        return what
    store, path = filesystem(location)
    bucket = path.partition("/")[0]  # empty in file:///
    try:
        there = not bucket or store.get_file_info(bucket).type != fs.FileType.NotFound
    except (
        OSError,
        pa.ArrowException,
    ):  # whoever may read objects need not be allowed to ask for their bucket
        return what
    return what if there else f"there is no bucket '{bucket}'"


def is_file(location: Location) -> bool:
    """Whether a file is there."""
    if not is_uri(location):
        try:
            return Path(location).is_file()
        except OSError:  # a name that is too long for this disk
            return False
    store, path = filesystem(location)
    with reporting_errors(location):
        return bool(store.get_file_info(path).type == fs.FileType.File)


def is_folder(location: Location) -> bool:
    """Whether a folder is there."""
    if not is_uri(location):
        return Path(location).is_dir()
    store, path = filesystem(location)
    with reporting_errors(location):
        return bool(store.get_file_info(path).type == fs.FileType.Directory)


def check_regular(path: Path) -> None:
    """Refuse what is there but is no file that ends: a folder, a pipe, a device, a socket.

    Raises:
        UserError: it is one of these, or it is missing.
    """
    with reporting_errors(path):
        mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"))
        kind = next((name for is_kind, name in kinds if is_kind(mode)), "a device")
        raise UserError(f"is {kind}, not a file", str(path), "Give a file.")


def read_bytes(location: Location) -> bytes:
    """A whole file.

    Raises:
        OSError: it cannot be read.
        UserError: as ``check_regular``.
    """
    if not is_uri(location):
        check_regular(Path(location))
    store, path = filesystem(location)
    with store.open_input_stream(path) as file:
        data: bytes = file.read()
        return data


def size_of(location: Location) -> int:
    """Bytes of a file.

    Raises:
        UserError: it is not there, or the store refuses.
    """
    store, path = filesystem(location)
    with reporting_errors(location):
        info = store.get_file_info(path)
        if info.type != fs.FileType.File:
            raise FileNotFoundError(path)
        return int(info.size)


def copy_file(location: Location, target: Path) -> None:
    """Copy a file to a local path.

    Raises:
        UserError: it is not there, or the store refuses.
    """
    store, path = filesystem(location)
    with reporting_errors(location):
        _copy(store, path, target)


def delete(location: Location) -> None:
    """Remove a file, if it is there."""
    store, path = filesystem(location)
    with suppress(FileNotFoundError):
        store.delete_file(path)


def publish(path: Path, location: Location) -> None:
    """Move a finished local file to its place: by a rename on a disk, by an upload to an object store."""
    if is_uri(location):
        upload(path, str(location))
        return
    Path(location).parent.mkdir(parents=True, exist_ok=True)
    _flush(path)
    path.replace(location)


@contextmanager
def local_file(location: Location) -> Iterator[Path]:
    """A file as a local path, for the block: itself, or a copy of an object that is gone afterwards.

    Raises:
        UserError: it is not there, or the store refuses; one of the block names the object, not its copy.
    """
    if not is_uri(location):
        yield Path(location)
        return
    with tempfile.TemporaryDirectory(prefix="safa-") as scratch:
        target = Path(scratch) / name_of(location)
        copy_file(location, target)
        with _naming(location, target):
            yield target


class LocalMirror:
    """A local folder for programs that append to their files; ``sync`` copies it to a location.

    The mirror of a folder on a disk is that folder itself, and ``sync`` has nothing to do.

    Attributes:
        path: the local folder. It is made, and has none of the location's files but those of ``fetch``.
    """

    def __init__(self, folder: Location) -> None:
        self._folder = folder
        self._scratch = tempfile.TemporaryDirectory(prefix="safa-") if is_uri(folder) else None
        self.path = Path(self._scratch.name if self._scratch else folder)
        self._synced: dict[str, tuple[int, int]] = {}
        with reporting_errors(folder):
            self.path.mkdir(parents=True, exist_ok=True)

    @property
    def is_remote(self) -> bool:
        """Whether ``sync`` copies anything."""
        return self._scratch is not None

    def fetch(self, name: str) -> None:
        """Copy a file of the location into the local folder, if it is there.

        Raises:
            UserError: the store refuses.
        """
        if self.is_remote and is_file(join(self._folder, name)):
            copy_file(join(self._folder, name), self.path / name)

    def sync(self) -> None:
        """Copy the files that have changed since the last time; each is replaced as a whole.

        Raises:
            UserError: the store refuses.
        """
        if not self.is_remote:
            return
        for file in sorted(file for file in self.path.rglob("*") if file.is_file()):
            name, status = str(file.relative_to(self.path)), file.stat()
            seen = (status.st_size, status.st_mtime_ns)
            if self._synced.get(name) == seen or file.name.startswith(TEMPORARY):
                continue
            with atomic_file(join(self._folder, *PurePosixPath(name).parts)) as copy:
                shutil.copyfile(file, copy)  # it may grow while it is uploaded
            self._synced[name] = seen

    def close(self) -> None:
        """Remove the local folder, if it is a copy."""
        if self._scratch is not None:
            self._scratch.cleanup()


class RangeReader:
    """A file that is read by ranges: ``pread`` on a disk, ranged requests to an object store.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, location: Location) -> None:
        self._name = shown(location)
        self._descriptor: int | None = None
        if is_uri(location):
            store, path = filesystem(location)
            self._object = store.open_input_file(path)
        else:
            self._descriptor = os.open(location, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, at: int, length: int) -> bytes:
        """So many bytes from byte ``at``.

        Raises:
            OSError: they cannot be read, or the file ends before.
        """
        if self._descriptor is not None:
            data = os.pread(self._descriptor, length, at)
        else:
            data = self._object.read_at(length, at)
        if len(data) != length:
            raise OSError(f"{self._name} ends before byte {at + length}")
        return data

    def close(self) -> None:
        """Nothing is read after this."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        else:
            self._object.close()

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            self.close()


def upload(path: Path, uri: str) -> None:
    """Copy a local file to an object in one upload.

    Raises:
        UserError: the store refuses or breaks off.
    """
    store, target = filesystem(uri)
    with reporting_errors(uri):
        try:
            with path.open("rb") as source, store.open_output_stream(target) as stream:
                shutil.copyfileobj(source, stream, UPLOAD_BYTES)
            stored = store.get_file_info(target).size
            if stored != path.stat().st_size:
                raise OSError(f"{stored} of {path.stat().st_size} bytes arrived")
        except BaseException:
            # A stream that is left by an error publishes what it has: pyarrow knows no way to abort.
            with suppress(OSError, pa.ArrowException):
                store.delete_file(target)
            raise


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
        UserError: as ``check_regular``.
    """
    if is_uri(location):
        store, path = fs.FileSystem.from_uri(str(location))
    else:
        check_regular(Path(location))
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
