"""Faults a user can mend, told in one line.

Raise ``UserError`` for anything that the person at the keyboard caused and can put right: a wrong key in a
config, a missing folder, weights of another shape. Programming mistakes stay ``assert`` or ``ValueError``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


class UserError(Exception):
    """One line for a person: what is wrong, where, and what to do about it.

    Args:
        what: the fault, e.g. ``"unknown key 'num_kpp'"``.
        where: the place of it, e.g. a file and a key; may be empty.
        fix: what the user can do; may be empty.
    """

    def __init__(self, what: str, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        line = f"{where}: {what}" if where else what
        super().__init__(" ".join((f"{line}. {fix}" if fix else line).split()))

    def __reduce__(self) -> tuple[type[UserError], tuple[str, str, str]]:
        # Exceptions cross process borders in Ray; the default would rebuild from the joined line only.
        return type(self), (self.what, self.where, self.fix)


def run_as_program(body: Callable[[], int | None]) -> int:
    """Run a command's body; turn a ``UserError`` into one line on stderr and exit code 2."""
    try:
        return body() or 0
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to go on\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit fails again
        return 0
