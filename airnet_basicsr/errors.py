"""What a user sees of an error, in whichever program our package runs: one line instead of a stack trace."""

import errno
import sys
from collections.abc import Callable
from types import TracebackType


class InputError(Exception):
    """Something that the user gave (an option, a file, a folder) cannot be used.

    The message says what was wrong, in which file or key, and what to do about it. An ``InputError`` that nobody
    catches ends the program with that message alone and exit status 1 (see :func:`_show`), also when it was raised in
    a data loader's worker process.
    """


_LABEL = f'{InputError.__module__}.{InputError.__qualname__}: '
_previous_hook = sys.excepthook
_last_acts: list[Callable[[], None]] = []


def message_of(error: InputError) -> str:
    """The plain message of ``error``; a data loader hands on a worker's error wrapped in the worker's trace."""
    return str(error).rpartition(_LABEL)[2].strip()


def at_failure(act: Callable[[], None]) -> None:
    """Call ``act`` before an error that nobody catches ends the program, to save what can be saved."""
    _last_acts.append(act)


def nothing_left_to_save() -> None:
    """Forget what :func:`at_failure` was given, and the networks and process groups that it keeps alive."""
    _last_acts.clear()


def _explain(error: BaseException) -> str | None:
    if isinstance(error, InputError):
        return message_of(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT):
        return f'{error.strerror}: {error.filename or "a file"}. Make room, or choose a folder that can be written.'
    if isinstance(error, FileNotFoundError) and error.filename in sys.argv:
        return f'{error.filename} does not exist'
    if isinstance(error, RuntimeError) and 'DataLoader worker' in str(error):
        reason = str(error).partition('\n')[0]
        return f'a data loading process died: {reason} Out of memory? Lower num_worker_per_gpu, or just run it again.'
    return None


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    while _last_acts:
        _last_acts.pop()()
    explanation = _explain(error)
    if explanation is None:
        _previous_hook(kind, error, trace)
    else:
        print(f'\nError: {explanation}', file=sys.stderr)


# A hook, not a try/except around main(): in the toolbox's own `python basicsr/train.py` main() is not ours.
sys.excepthook = _show
