"""What the C library does with the memory of freed feature maps."""

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's malloc.h
_DEFAULTS = {_TRIM_THRESHOLD: 128 * 2**10, _MMAP_MAX: 65536}


@cache
def keep_freed() -> None:
    """Have glibc keep up to 2 GiB of freed memory for this process's next allocations.

    By default it gives large blocks back to the system at once, and every new feature map comes as fresh pages, each of
    which the system zeroes at its first touch: measured, that takes longer than adding two maps. Without glibc nothing
    happens.
    """
    _set(_MMAP_MAX, 0)
    _set(_TRIM_THRESHOLD, 2**31 - 1)


def release_freed() -> None:
    """Give freed memory back to the system, and from now on at once: for when memory has run out.

    What malloc keeps is out of reach for whatever maps memory by itself; oneDNN crashes where it cannot get pages for
    the code that it generates.
    """
    for parameter, value in _DEFAULTS.items():
        _set(parameter, value)
    trim = _glibc('malloc_trim')
    if trim:
        trim(0)


def _set(parameter: int, value: int) -> None:
    mallopt = _glibc('mallopt')
    if mallopt:
        mallopt(parameter, value)


def _glibc(name: str) -> ctypes._CFuncPtr | None:
    """None without glibc."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
