"""Memory: what a program keeps of freed blocks, and how much another process may take.

A network frees and allocates tensors of many megabytes all the time. glibc gives blocks of this size back at
once, and the system clears every page of a new one: millions of page faults in a video.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

# Parameters of mallopt(3).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
LARGEST = 2**31 - 1  # bytes; mallopt takes an int
# Words of torch, its libraries and Python's threads.
_NO_MEMORY = re.compile(
    "allocate memory|out of memory|enough memory|create a (memory|primitive)|start new thread"
)
GROWTH = 64 * 2**20  # bytes that the heap grows by


def bound_memory(process: int, most: int) -> None:
    """Let another process take at most so many bytes of address space; does nothing where that cannot be.

    Set from here, right after its start: what runs between fork and exec may deadlock beside threads.
    """
    if hasattr(resource, "prlimit"):  # Linux
        with suppress(ProcessLookupError):  # it has ended
            resource.prlimit(process, resource.RLIMIT_AS, (most, most))


def bound_growth(most: int) -> None:
    """Let this process take at most so many bytes more than it has; does nothing where that cannot be.

    Memory is counted that it may write to (``RLIMIT_DATA``), not the address space that drivers of GPUs set
    aside. Processes that it starts may have as much, each.
    """
    if not sys.platform.startswith("linux"):
        return
    status = Path("/proc/self/status").read_text()
    have = re.search(r"^VmData:\s*([0-9]+) kB", status, re.MULTILINE)
    if have:
        bound = int(have[1]) * 1024 + most
        resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no more memory; only Python's own and CUDA's have a type for it."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None


def keep_freed_memory() -> bool:
    """Make this process keep what it has freed, for all threads; does nothing where there is no glibc.

    Called before the first large tensor is made. Memory that is in use already is not affected.

    Returns:
        Whether the allocator took the settings.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library, e.g. musl
        return False
    # One arena: the others are made of small pieces, so that large blocks in them come from the system again.
    settings = ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, LARGEST), (M_TOP_PAD, GROWTH))
    return all(mallopt(name, value) == 1 for name, value in settings)


def freeze_what_is_loaded() -> None:
    """Leave all objects that exist by now out of Python's searches for garbage.

    Modules and networks are some 500,000 objects, and a full search visits each: a tenth of a second.
    """
    gc.collect()
    gc.freeze()
