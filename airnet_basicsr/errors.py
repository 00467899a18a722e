"""What a user sees of an error, in whichever program of ours: one line instead of a stack trace."""

import errno
import sys
from types import TracebackType


class InputError(Exception):
    """Something that the user gave (an option, a file, a folder) cannot be used.

    The message says what was wrong, in which file or key, and what to do about it. In our programs an ``InputError``
    that nobody catches ends the program with that message alone and exit status 1 (see :func:`end_in_one_line`), also
    when it was raised in a data loader's worker process.
    """


_LABEL = f'{InputError.__module__}.{InputError.__qualname__}: '


def message_of(error: InputError) -> str:
    """The plain message of ``error``; a data loader hands on a worker's error wrapped in the worker's trace."""
    return str(error).rpartition(_LABEL)[2].strip()


def end_in_one_line() -> None:
    """For a program's ``main()``: errors of the user's making that nobody catches end it in one line of explanation."""
    if sys.excepthook is not _show:
        _previous_hooks.append(sys.excepthook)
        sys.excepthook = _show


_previous_hooks = [sys.__excepthook__]

# Packages that only a part of this one needs, and the extra that brings them.
_EXTRAS = {
    **dict.fromkeys(('lmdb', 'skimage', 'torchvision', 'yaml'), 'train'),
    **dict.fromkeys(('jinja2', 'matplotlib', 'scipy', 'sklearn'), 'report'),
    **dict.fromkeys(('onnx', 'onnxruntime'), 'onnx'),
    **dict.fromkeys(('gradio', 'starlette'), 'web'),
}


def explain(error: BaseException) -> str | None:
    """The line that ends a program after ``error``; None where a traceback says more."""
    if isinstance(error, InputError):
        return message_of(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT):
        return f'{error.strerror}: {error.filename or "a file"}. Make room, or choose a folder that can be written.'
    if isinstance(error, FileNotFoundError) and error.filename in sys.argv:
        return f'{error.filename} does not exist'
    if isinstance(error, ModuleNotFoundError) and (error.name or '').partition('.')[0] in _EXTRAS:
        package = str(error.name).partition('.')[0]
        return f'the package {package} is not installed: pip install "airnet-basicsr[{_EXTRAS[package]}]"'
    if isinstance(error, RuntimeError) and 'DataLoader worker' in str(error):
        reason = str(error).partition('\n')[0]
        return f'a data loading process died: {reason} Out of memory? Lower num_worker_per_gpu, or just run it again.'
    return None


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    explanation = explain(error)
    if explanation is None:
        _previous_hooks[-1](kind, error, trace)
    else:
        print(f'\nError: {explanation}', file=sys.stderr)
