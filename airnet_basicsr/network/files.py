"""Files for people, written so that an interruption never leaves half of one."""

import os
from contextlib import suppress
from os import PathLike
from pathlib import Path

from airnet_basicsr.errors import InputError


def write_whole(path: str | PathLike, content: bytes) -> None:
    """Write ``content`` to ``path``, making its folder; whatever goes wrong, a file already there is never damaged.

    Raises:
        InputError: The folder cannot be made or written, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f'{path} cannot be written: {error.strerror}') from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
