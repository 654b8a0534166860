"""The records of a zip archive as torch writes it: uncompressed, in one folder, each under its own name.

Python's ``zipfile`` reads far more than that. Here nothing is ever inflated, records cannot share bytes to
take more memory than the file has, and a directory of millions of names is refused before it is read.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from safa.unpickle.work import CHANGED, Damaged, Forbidden, shown

MOST_RECORDS = 1 << 17  # a network of 100,000 tensors
LONGEST_DIRECTORY = 64 << 20  # bytes
ZIP_START = b"PK\x03\x04"
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_HEADER = struct.Struct("<4s5H3L2H")
_FULL_32 = 0xFFFFFFFF  # the number stands in 64 bits elsewhere
_EXTRA_64 = 1
_ENCRYPTED = 1


@dataclass(frozen=True, slots=True)
class Record:
    """Where a record lies.

    Attributes:
        name: with its folder, as the file has it.
        header: where its own header starts, bytes.
        size: bytes that it takes in the file.
        checksum: CRC-32 of its content; 0 where the writer left it out, as torch can be asked to.
        changed: "compressed" or "encrypted" if its content is; otherwise empty.
    """

    name: bytes
    header: int
    size: int
    checksum: int
    changed: str


class ZipRecords:
    """The records of an archive, by their names without the folder.

    Args:
        file: open without a buffer; read from wherever it stands.
        size: its length, bytes.

    Attributes:
        names: of all records, with their folders.
        by_name: where each lies; empty before ``check``.

    Raises:
        Damaged: it was cut or changed.
        Forbidden: it holds too many.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        count, length, start = _directory_place(file, size)
        if count > MOST_RECORDS or length > LONGEST_DIRECTORY:
            raise Forbidden(f"it holds {count} records")
        file.seek(start)
        self._end = start
        self._records = _directory(exactly(file, length), count)
        self.names = [record.name.decode("utf-8") for record in self._records]
        self.by_name: dict[str, Record] = {}

    def check(self) -> None:
        """Make sure that the records are those of torch, before any of them is read.

        Raises:
            Forbidden: one is compressed or encrypted, several folders, two of one name, or shared bytes.
        """
        for record in self._records:
            if record.changed:
                raise Forbidden(f"its record {shown(record.name.decode('utf-8'))} is {record.changed}")
        if sum(record.size for record in self._records) > self._end:
            raise Forbidden("its records share their bytes")
        self.by_name = _by_name(self._records)

    def seek(self, name: str) -> int:
        """Go to where a record's content starts; gives its length in bytes.

        Raises:
            Damaged: there is no such record, or its header is another one's.
        """
        record = self.by_name.get(name)
        if record is None:
            raise Damaged(f"it lacks the record {shown(name)}")
        self._file.seek(record.header)
        header = _HEADER.unpack(exactly(self._file, _HEADER.size))
        name_length, extra_length = header[9], header[10]
        own = exactly(self._file, name_length)
        if header[0] != ZIP_START or header[3] != 0 or own != record.name:
            raise Damaged("a record that is not where the directory says")
        start = record.header + _HEADER.size + name_length + extra_length
        if start + record.size > self._end:
            raise Damaged("a record that reaches outside of the file")
        self._file.seek(start)
        return record.size

    def read(self, name: str, longest: int) -> bytes:
        """A short record.

        Raises:
            Damaged: as ``seek``, or it is not what was written.
            Forbidden: it is longer than that.
        """
        size = self.seek(name)
        if size > longest:
            raise Forbidden(f"its record {shown(name)} has {size} bytes")
        data, checksum = exactly(self._file, size), self.by_name[name].checksum
        if checksum and zlib.crc32(data) != checksum:
            raise Damaged(CHANGED)
        return data


def exactly(file: BinaryIO, count: int) -> bytes:
    """The next ``count`` bytes.

    Raises:
        Damaged: the file ends before.
    """
    data = file.read(count)
    if len(data) != count:
        raise Damaged("it ends too early")
    return data


def _directory_place(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Records, bytes and start of the directory, which ends where the end record begins."""
    end_at = size - _END.size
    if end_at < 0:
        raise Damaged("a zip archive without its end: it was cut")
    file.seek(end_at)
    mark, disk, first, here, count, length, start, comment = _END.unpack(exactly(file, _END.size))
    if mark != b"PK\x05\x06" or comment:
        raise Damaged("a zip archive without its end: it was cut, or something was added")
    long = _place_64(file, end_at)  # torch writes it beside the other, which may then hold the same numbers
    if long:
        end_at, disk, first, here, count, length, start = long
    if disk or first or here != count or start + length != end_at:
        raise Damaged("a zip archive whose directory is not where its end says")
    return count, length, start


def _place_64(file: BinaryIO, end_at: int) -> tuple[int, ...]:
    """The same from an end record of 64-bit numbers, and first where that begins; empty if there is none."""
    locator_at = end_at - _LOCATOR_64.size
    if locator_at < _END_64.size:
        return ()
    file.seek(locator_at)
    mark, _, at, _ = _LOCATOR_64.unpack(exactly(file, _LOCATOR_64.size))
    if mark != b"PK\x06\x07":
        return ()
    if at + _END_64.size != locator_at:
        raise Damaged("a zip archive whose directory is not where its end says")
    file.seek(at)
    mark, _, _, _, *numbers = _END_64.unpack(exactly(file, _END_64.size))
    if mark != b"PK\x06\x06":
        raise Damaged("a zip archive whose directory is not where its end says")
    return (at, *numbers)


def _directory(data: bytes, count: int) -> list[Record]:
    records = []
    at = 0
    for _ in range(count):
        if at + _ENTRY.size > len(data):
            raise Damaged("a zip archive without all of its directory")
        mark, _, _, flags, method, *rest = _ENTRY.unpack_from(data, at)
        checksum, packed, size, name_length, extra_length, comment_length, header = (*rest[2:8], rest[11])
        at += _ENTRY.size
        name, extra = data[at : at + name_length], data[at + name_length : at + name_length + extra_length]
        at += name_length + extra_length + comment_length
        if mark != b"PK\x01\x02" or at > len(data):
            raise Damaged("a zip archive without all of its directory")
        size, packed, header = _long_numbers(extra, (size, packed, header))
        changed = "encrypted" if flags & _ENCRYPTED else "compressed" if method else ""
        if packed != size and not changed:
            raise Damaged("a record of two lengths")
        records.append(Record(name, header, packed, checksum, changed))
    if at != len(data):
        raise Damaged("a zip archive with more than its directory")
    return records


def _long_numbers(extra: bytes, numbers: tuple[int, int, int]) -> tuple[int, ...]:
    """The numbers of an entry, those that do not fit into 32 bits from the part that holds 64."""
    if _FULL_32 not in numbers:
        return numbers
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        part = extra[at + 4 : at + 4 + length]
        at += 4 + length
        if kind == _EXTRA_64 and len(part) >= 8 * numbers.count(_FULL_32):
            long = iter(struct.unpack(f"<{len(part) // 8}Q", part[: len(part) // 8 * 8]))
            return tuple(next(long) if number == _FULL_32 else number for number in numbers)
    raise Damaged("a record without its length")


def _by_name(records: list[Record]) -> dict[str, Record]:
    by_name: dict[str, Record] = {}
    folders = set()
    for record in records:
        folder, _, name = record.name.decode("utf-8").partition("/")
        folders.add(folder)
        if name in by_name:
            raise Forbidden(f"it holds two records {shown(name)}")
        if name:
            by_name[name] = record
    if len(folders) > 1:
        raise Forbidden("its records do not lie in one folder")
    return by_name
