"""Memory that the network gives back stays with the process.

The activations of a patch are large, and glibc returns each of them to the system at once and asks for it again. The kernel
then hands out, and clears, millions of pages a minute. Kept in the process, the same memory is used again. No byte changes.
"""

from __future__ import annotations

import ctypes
import functools
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""The numbers of mallopt(3), from malloc.h."""

LARGEST_KEPT = 2**30
"""Bytes of a block up to which it is taken from the heap."""

KEPT_FREE = 2**28
"""Bytes at the heap's end that may lie free before they are returned."""


@functools.cache
def keep_freed_memory() -> bool:
    """Tell the C library to keep what is freed, in one heap for all threads; return whether it understood.

    Only glibc has the switch, and elsewhere nothing changes. It counts for the whole process, from now on.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = {M_MMAP_THRESHOLD: LARGEST_KEPT, M_TRIM_THRESHOLD: KEPT_FREE, M_ARENA_MAX: 1}
    # musl has the name, too, and answers 0 to everything.
    answers = [mallopt(parameter, value) for parameter, value in wanted.items()]
    return all(answer == 1 for answer in answers)


def environment() -> dict[str, str]:
    """Return the same as environment variables, for processes that are to be started."""
    return {
        "MALLOC_MMAP_THRESHOLD_": str(LARGEST_KEPT),
        "MALLOC_TRIM_THRESHOLD_": str(KEPT_FREE),
        "MALLOC_ARENA_MAX": "1",
    }
