"""Memory of this process: how much there is, and what the C library does with that of freed feature maps."""

import ctypes
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # glibc's malloc.h
_DEFAULTS = {_TRIM_THRESHOLD: 128 * 2**10, _MMAP_MAX: 65536}
# What is kept must not be missed: four times as much has to be free.
_KEPT = 2**31 - 1
_changed = False


def keep_freed() -> None:
    """For a program's ``main()``: have glibc keep up to 2 GiB of freed memory for this process's next allocations.

    By default it gives large blocks back to the system at once, and every new feature map comes as fresh pages, each of
    which the system zeroes at its first touch: measured, that takes longer than adding two maps. Without glibc, where
    less than 8 GiB are free or where the process may not have so much, nothing happens.
    """
    global _changed
    if free_memory() < 4 * _KEPT or _is_limited():
        return
    _changed = True
    _set(_MMAP_MAX, 0)
    _set(_TRIM_THRESHOLD, _KEPT)


def release_freed() -> None:
    """Give freed memory back to the system, and from now on at once: for when memory has run out.

    What malloc keeps is out of reach for whatever maps memory by itself; oneDNN crashes where it cannot get pages for
    the code that it generates.
    """
    if _changed:
        for parameter, value in _DEFAULTS.items():
            _set(parameter, value)
    trim = _glibc('malloc_trim')
    if trim:
        trim(0)


def free_memory() -> int:
    """Bytes that can be had without swapping, also within a container's limit; a cautious guess outside Linux."""
    free = 2 * 2**30
    try:
        text = Path('/proc/meminfo').read_text()
        free = 1024 * int(text.partition('MemAvailable:')[2].split()[0])
        group = Path('/sys/fs/cgroup')
        limit, used, of_what = ((group / f'memory.{name}').read_text() for name in ('max', 'current', 'stat'))
        if limit.strip() != 'max':
            cached = int(of_what.partition('inactive_file')[2].split()[0])
            free = min(free, int(limit) - int(used) + cached)
    except (OSError, ValueError, IndexError):
        pass
    return max(free, 0)


def _is_limited() -> bool:
    with suppress(ImportError):  # not everywhere
        import resource

        return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    return False


def _set(parameter: int, value: int) -> None:
    mallopt = _glibc('mallopt')
    if mallopt:
        mallopt(parameter, value)


def _glibc(name: str) -> Callable[..., int] | None:
    """None without glibc."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
