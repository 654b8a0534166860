"""Errors, of two kinds: those that end a program in one line, and those that are one row of a data set.

Raise ``UserError`` for anything that the person at the keyboard can put right: a misspelt key in a config, a
missing folder, weights of another shape. Raise ``ClipError`` for one input of many that cannot be used; a
pipeline keeps it as a ``Failure`` and continues with the next. Programming mistakes stay ``assert`` or
``ValueError``. docs/architecture.md draws the tree.
"""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143  # 128 and the number of SIGTERM, as of a process that did not catch it
LONGEST_LINE = 960  # characters of an error, for a person
DETAIL_LENGTH = 500  # characters of an explanation in a row


def printable(text: str) -> str:
    """Text as one line that is safe on a terminal: what a file or a name brought along cannot control it.

    White space becomes single blanks. Control and escape codes, marks that turn the direction of writing, and
    bytes of a name that are no UTF-8 are written as ``\\x1b``, ``\\u202e`` and ``\\udcff``.
    """
    line = " ".join(text.split())
    return line if line.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in line)


def _without_keys(line: str) -> str:
    """A line without what URIs in it have before their host: names and passwords."""
    return re.sub(r"(?<=://)[^/\s@'\"]+@", "", line)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _shortened(line: str) -> str:
    """A line without its middle, if it is longer than ours: a name may have a million letters."""
    half = LONGEST_LINE // 2
    return line if len(line) <= LONGEST_LINE else f"{line[:half]} ... {line[-half:]}"


class UserError(Exception):
    """One line for a person: what is wrong, where, and what to do about it.

    Args:
        what: the problem, e.g. ``"unknown key 'num_kpp'"``.
        where: its location, e.g. a file and a key; may be empty.
        fix: what the user can do; may be empty.
    """

    def __init__(self, what: str, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        line = f"{where}: {what}" if where else what
        super().__init__(_shortened(_without_keys(printable(f"{line}. {fix}" if fix else line))))

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str, str]]:
        # Exceptions cross process borders in Ray; the default would rebuild from the joined line only.
        return type(self), (self.what, self.where, self.fix)


class Terminated(KeyboardInterrupt):
    """SIGTERM asked the program to end. The message, if any, says how far it came."""


# What a disk or a mount says when it takes or gives no more: never a bug, and no retry helps.
STORAGE_ERRORS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EFBIG, errno.ESTALE}
)


# A path of the user's that cannot be: a file where a folder should be, a name that is too long, and the like.
PATH_ERRORS = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.EPERM,
        errno.ETXTBSY,
    }
)


def storage_error(number: int | None, where: str = "") -> UserError | None:
    """The line about storage that failed, for a person; None if the number stands for something else."""
    if number not in STORAGE_ERRORS:
        return None
    fix = "Make room, or correct the mount or its permissions; then run the same command again."
    return UserError(f"the storage fails ({os.strerror(number or 0).lower()})", where, fix)


def _path_error(error: OSError) -> UserError | None:
    """The line about a path that cannot be used; None if the error stands for something else."""
    if error.errno not in PATH_ERRORS or error.filename is None:
        return None
    return UserError(os.strerror(error.errno).lower(), os.fsdecode(error.filename), "Check the path.")


@contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block like Ctrl-C: by an exception, so that partial files are removed."""

    received = False

    def terminate(number: int, frame: object) -> None:
        nonlocal received
        received = True
        raise Terminated("terminated")

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can set a handler, and gets the signal
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt as error:
        if received and not isinstance(error, Terminated):  # Ray makes an interrupt of its own of any signal
            raise Terminated("terminated") from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


RESUME = "run the same command again to resume"


def run_reporting_errors(body: Callable[[], int | None], after_interrupt: str = RESUME) -> int:
    """Run a command's body; turn a ``UserError`` or an interrupt into one line on stderr and an exit code.

    A ``ClipError`` that comes this far is of the one input that the command was given. ``after_interrupt`` is
    what to do once it was interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may be no UTF-8
    try:
        code = body() or 0
        sys.stdout.flush()  # a full disk shows itself here, where it can be reported
        return code
    except (UserError, ClipError) as error:
        sys.stderr.write(f"error: {printable(str(error))}\n")
        return EXIT_USER_ERROR
    except KeyboardInterrupt as error:
        sys.stderr.write(f"{str(error) or 'interrupted'}; {after_interrupt}\n")
        return EXIT_TERMINATED if isinstance(error, Terminated) else EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit fails again
        return 0
    except OSError as error:
        reason = storage_error(error.errno, str(error.filename or "")) or _path_error(error)
        if reason is None:
            raise
        sys.stderr.write(f"error: {reason}\n")
        return EXIT_USER_ERROR


class FailureCode(StrEnum):
    """Why one input did not become output. A code belongs to a row, never to a run."""

    UNAVAILABLE = "unavailable"  # the video does not exist, which is final
    BLOCKED = "blocked"  # the host refuses all of us (bot check, sign-in): stops the run
    RATE_LIMITED = "rate_limited"  # still "too many requests" after every attempt
    TIMEOUT = "timeout"  # the host did not deliver, or broke off, at every attempt
    DUPLICATE = "duplicate"  # the list has this clip in another line
    BAD_ROW = "bad_row"  # the list's line makes no sense
    DECODE = "decode"  # the video or an image cannot be decoded
    NO_FACE = "no_face"  # not one frame has landmarks
    NO_LANDMARKS = "no_landmarks"  # there is no landmark source for it
    TOO_SMALL = "too_small"
    TOO_SHORT = "too_short"
    BORDER = "border"  # too much of the box lies outside the frame
    UNEXPECTED = "unexpected"  # a bug: the detail has the error's type and line


# Tried again by every run; `blocked` is never stored, since its clips have not been tried.
TRANSIENT = frozenset({FailureCode.RATE_LIMITED, FailureCode.TIMEOUT})


class ClipError(Exception):
    """Raised where one input cannot be used; the pipelines turn it into a row with this code."""

    def __init__(self, code: FailureCode, detail: str) -> None:
        super().__init__(code, detail)  # both, so that it can be pickled
        self.code, self.detail = code, detail

    def __str__(self) -> str:
        return self.detail


@dataclass(frozen=True, slots=True)
class Failure:
    """One input that did not become output, as data.

    Attributes:
        name: which input; unique within its stage.
        code: one of ``FailureCode``.
        detail: why, in one line of at most ``DETAIL_LENGTH`` characters.
        stage: what was being done to it, e.g. ``preprocess`` or ``evaluate/animation``; empty until a
            pipeline knows.
    """

    name: str
    code: FailureCode
    detail: str
    stage: str = ""

    @classmethod
    def of(cls, name: str, error: Exception, stage: str = "") -> Failure:
        """Convert an exception to a failure. This is the only place where that is done."""
        if isinstance(error, ClipError):
            return cls(name, error.code, _one_line(error.detail), stage)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        line = f"{Path(frame.filename).name}:{frame.lineno}"
        detail = _one_line(f"{type(error).__name__} at {line}: {error}")
        return cls(name, FailureCode.UNEXPECTED, detail, stage)


def _one_line(text: str) -> str:
    return printable(text)[:DETAIL_LENGTH]
