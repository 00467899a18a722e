"""The one error that a user sees without a stack trace, in whichever program our package runs."""

import sys
from types import TracebackType


class InputError(Exception):
    """Something that the user gave (an option, a file, a folder) cannot be used.

    The message says what was wrong, in which file or key, and what to do about it. An ``InputError`` that nobody
    catches ends the program with that message alone and exit status 1 (see :func:`_show`), also when it was raised in
    a data loader's worker process.
    """


_LABEL = f'{InputError.__module__}.{InputError.__qualname__}: '
_previous_hook = sys.excepthook


def message_of(error: InputError) -> str:
    """The plain message of ``error``; a data loader hands on a worker's error wrapped in the worker's trace."""
    return str(error).rpartition(_LABEL)[2].strip()


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, InputError):
        print(f'\nError: {message_of(error)}', file=sys.stderr)
    else:
        _previous_hook(kind, error, trace)


# A hook, not a try/except around main(): in the toolbox's own `python basicsr/train.py` main() is not ours.
sys.excepthook = _show
