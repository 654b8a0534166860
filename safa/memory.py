"""Memory: what a program keeps of freed blocks, and how much another process may take.

A network frees and allocates tensors of many megabytes all the time. glibc gives blocks of this size back at
once, and the system clears every page of a new one: millions of page faults in a video.
"""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress

# Parameters of mallopt(3).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8
LARGEST = 2**31 - 1  # bytes; mallopt takes an int
GROWTH = 64 * 2**20  # bytes that the heap grows by


def bound_memory(process: int, most: int) -> None:
    """Let another process take at most so many bytes of address space; does nothing where that cannot be.

    Set from here, right after its start: what runs between fork and exec may deadlock beside threads.
    """
    if hasattr(resource, "prlimit"):  # Linux
        with suppress(ProcessLookupError):  # it has ended
            resource.prlimit(process, resource.RLIMIT_AS, (most, most))


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
