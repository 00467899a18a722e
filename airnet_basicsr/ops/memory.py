"""What the C library does with the memory of freed feature maps."""

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's malloc.h
_MOST = 2**31 - 1


@cache
def keep_freed() -> None:
    """Have glibc keep up to 2 GiB of freed memory for this process's next allocations.

    By default it gives large blocks back to the system at once, and every new feature map comes as fresh pages, each of
    which the system zeroes at its first touch: measured, that takes longer than adding two maps. Without glibc nothing
    happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, _MOST)
