"""The caller's side of the decoder: starts it, gives it the open file, reads its records, and ends it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from safa.decoder.protocol import AGAIN, END, ERROR, FRAME, HEADER, INFO, TIMES, Bounds
from safa.limits import limit, over_limit

ROOT = Path(__file__).parents[2]  # of the package, wherever it was imported from
PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from safa.decoder.main import main; main()"
PIPE_BYTES = 2**20  # a frame of 512 x 512 px


class DecodeError(Exception):
    """A video that cannot be read; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class RawFrame:
    """A frame as the decoder sends it.

    Attributes:
        pixels: (H, W, 3) or (H, W, 4) uint8, read-only.
        ticks: when it is shown, in units of the file's time base after its start.
        row: its number in the file.
        begins_scene: whether a scene begins with it.
    """

    pixels: NDArray[np.uint8]
    ticks: int
    row: int
    begins_scene: bool


class DecoderProcess:
    """A decoder of one file, to be closed.

    Args:
        path: the file.
        tolerant: leave out damaged frames instead of refusing the file.

    Raises:
        DecodeError: no such file, or it cannot be opened.
    """

    def __init__(self, path: Path, *, tolerant: bool = False) -> None:
        self._path, self._tolerant = path, tolerant
        self._sending = False  # frames that nobody wants any more
        self._start()

    def _start(self) -> None:
        descriptor = _open(self._path)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        try:
            command = [sys.executable, "-P", "-c", PROGRAM, str(ROOT), str(descriptor)]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                bufsize=0,
                pass_fds=(descriptor,),
                pipesize=PIPE_BYTES,
            )
        finally:
            os.close(descriptor)
        bounds = Bounds(limit("decoder_bytes"), limit("pixels"), limit("frames"), limit("seconds"))
        self._write({"bounds": asdict(bounds), "tolerant": self._tolerant})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the decoder."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.kill()
        self._process.wait()
        self._errors.close()

    # ---- requests --------------------------------------------------------------------------------------

    def info(self, *, count: bool) -> dict[str, Any]:
        """Ask for what ``safa.decoder.main`` knows of the file; ``count`` asks for the number of frames."""
        self._say({"do": "open", "count": count})
        return self._answer(INFO)

    def times(self) -> tuple[array[int], int]:
        """Ask for the ticks of all frames, and for how many the last one is shown (0: unknown)."""
        self._say({"do": "times"})
        kind, _, _, _, _, _, last, _, size = self._header()
        if kind != TIMES:
            self._fail(kind, size)
        ticks = array("q")
        ticks.frombytes(self._read(size).tobytes())
        return ticks, last

    def frames(self, request: dict[str, Any]) -> Iterator[RawFrame | dict[str, Any]]:
        """Ask for frames; the last item is the decoder's record of the end."""
        self._say({"do": "frames"} | request)
        self._sending = True
        frame: RawFrame | None = None
        while True:
            kind, channels, begins, height, width, stride, ticks, row, size = self._header()
            if kind == FRAME:
                lines = self._read(size).reshape(height, stride)  # (H x stride,) -> (H, stride)
                pixels = np.ascontiguousarray(lines[:, : width * channels])
                pixels = pixels.reshape(height, width, channels)  # (H, W x C) -> (H, W, C)
                pixels.flags.writeable = False  # it may be shown again
                frame = RawFrame(pixels, ticks, row, bool(begins))
                yield frame
            elif kind == AGAIN and frame is not None:
                yield RawFrame(frame.pixels, frame.ticks, frame.row, False)
            elif kind == END:
                self._sending = False
                yield json.loads(self._read(size).tobytes())
                return
            else:
                self._fail(kind, size)

    # ---- pipes -----------------------------------------------------------------------------------------

    def _say(self, request: dict[str, Any]) -> None:
        if self._sending:
            self.close()
            self._start()
            self._sending = False
        self._write(request)

    def _write(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            self._ended()

    def _answer(self, expected: bytes) -> dict[str, Any]:
        kind, *_, size = self._header()
        if kind != expected:
            self._fail(kind, size)
        answer: dict[str, Any] = json.loads(self._read(size).tobytes())
        return answer

    def _header(self) -> tuple[Any, ...]:
        assert self._process.stdout is not None
        waiting = select.poll()  # which, unlike select, takes any number of open files
        waiting.register(self._process.stdout, select.POLLIN)
        if not waiting.poll(1000 * limit("decoder_seconds")):
            raise DecodeError(str(over_limit("decoder_seconds", str(self._path))))
        return HEADER.unpack(self._read(HEADER.size).tobytes())

    def _read(self, size: int) -> NDArray[np.uint8]:
        assert self._process.stdout is not None
        data = np.empty(size, np.uint8)
        rest = data.data
        while rest:
            count = self._process.stdout.readinto(rest)  # type: ignore[attr-defined]  # unbuffered
            if not count:
                self._ended()
            rest = rest[count:]
        return data

    def _fail(self, kind: bytes, size: int) -> NoReturn:
        error = json.loads(self._read(size).tobytes()) if kind == ERROR else {"limit": "", "reason": ""}
        if error["limit"]:
            raise DecodeError(str(over_limit(error["limit"], str(self._path))))
        raise DecodeError(f"{self._path}: {error['reason'] or 'the decoder broke off'}")

    def _ended(self) -> NoReturn:
        """The decoder is gone: out of memory, or a crash of a codec."""
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        if lines and "MemoryError" in lines[-1]:
            raise DecodeError(str(over_limit("decoder_bytes", str(self._path))))
        reason = lines[-1][:200] if lines else f"exit code {self._process.returncode}"
        raise DecodeError(f"{self._path}: the decoder broke off ({reason})")


def _open(path: Path) -> int:
    """Open a regular file for the decoder; a pipe would wait for ever."""
    try:
        if not path.is_file():
            raise DecodeError(f"{path}: {'is no file' if path.exists() else 'no such file'}")
        return os.open(path, os.O_RDONLY)
    except (OSError, ValueError) as error:  # ValueError: a name that holds a NUL
        raise DecodeError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
