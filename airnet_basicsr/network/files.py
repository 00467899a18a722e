"""Files of people: found below a folder; written so that an interruption never leaves half of one."""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from os import PathLike
from pathlib import Path

from airnet_basicsr.errors import InputError


def write_whole(path: str | PathLike, content: bytes | str) -> None:
    """Write ``content`` to ``path``, making its folder; whatever goes wrong, a file already there is never damaged.

    Text becomes UTF-8; names of files in it that are no text are escaped.

    Raises:
        InputError: The folder cannot be made or written, or the disk is full.
    """
    path = Path(path)
    if isinstance(content, str):
        content = content.encode(errors='backslashreplace')
    # No other writer of the same file has this name; and it is short, where the file's own may be as long as names get.
    temporary = path.with_name(f'.{secrets.token_hex(8)}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f'{path} cannot be written: {error.strerror}') from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def walk(folder: str | PathLike, unreadable: Callable[[OSError], None]) -> Iterator[str]:
    """Paths of the files below ``folder``, through links too: those of a folder by name, then those of its subfolders.

    Hidden files and folders are passed over, and links that lead back to a folder they lie in; links that lead nowhere
    are given, for their reader to tell. ``unreadable`` is called for a folder that cannot be listed.
    """
    return _walk(os.fspath(folder), (os.path.realpath(folder),), unreadable)


def _walk(folder: str, above: tuple[str, ...], unreadable: Callable[[OSError], None]) -> Iterator[str]:
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith('.'))
    except OSError as error:
        unreadable(error)
        return
    folders = []
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            folders.append(path)
        elif os.path.isfile(path) or os.path.islink(path):
            yield path
    for path in folders:
        real = os.path.realpath(path)
        if real not in above:
            yield from _walk(path, (*above, real), unreadable)
