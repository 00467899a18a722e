"""What a user sees of an error, in whichever program of ours: one line instead of a stack trace."""

import errno
import os
import re
import select
import sys
from itertools import dropwhile
from traceback import walk_tb
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
    **dict.fromkeys(('lmdb', 'msgspec', 'skimage', 'torchvision', 'yaml'), 'train'),
    **dict.fromkeys(('jinja2', 'matplotlib', 'scipy', 'sklearn'), 'report'),
    **dict.fromkeys(('onnx', 'onnxruntime'), 'onnx'),
    **dict.fromkeys(('gradio', 'starlette'), 'web'),
}


# Whose code may stand between a program of ours and an error that is explained in one line: in anyone else's, a dataset
# class of the user's say, the same error may be a programming error, and keeps its traceback.
_LIBRARIES = sys.stdlib_module_names | {
    *('airnet_basicsr', 'basicsr', 'torch', 'torchvision', 'numpy', 'PIL', 'cv2', 'tifffile', 'lmdb', 'skimage'),
    *('scipy', 'sklearn', 'tqdm', 'safetensors', 'yaml', 'msgspec', 'jinja2', 'matplotlib', 'tensorboard', 'filelock'),
    *('onnx', 'onnxruntime', 'h5py'),
}
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS)


def explain(error: BaseException) -> str | None:
    """The line that ends a program after ``error``; None where a traceback says more."""
    if isinstance(error, InputError):
        return message_of(error)
    # Raised by a signal handler of PyTorch's, wherever the program is. (An error in a worker begins otherwise.)
    if isinstance(error, RuntimeError) and re.match(r'DataLoader worker \(pid', str(error)):
        reason = str(error).partition('\n')[0]
        return (
            f'a data loading process died: {reason} If it left a message, that stands above. Out of memory? Lower '
            'num_worker_per_gpu.'
        )
    if not _only_libraries(error.__traceback__):
        return None
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return f'{error.strerror}: {error.filename or "a file"}. Make room, or choose another folder.'
    if isinstance(error, OSError) and error.errno in _NO_ACCESS:
        return f'{error.strerror}: {error.filename or "a file"}. Look at its permissions, or choose another folder.'
    if isinstance(error, FileNotFoundError) and error.filename in sys.argv:
        return f'{error.filename} does not exist'
    if isinstance(error, ModuleNotFoundError) and (error.name or '').partition('.')[0] in _EXTRAS:
        package = str(error.name).partition('.')[0]
        return f'the package {package} is not installed: pip install "airnet-basicsr[{_EXTRAS[package]}]"'
    return None


def _only_libraries(trace: TracebackType | None) -> bool:
    modules = [str(frame.f_globals.get('__name__')).partition('.')[0] for frame, _ in walk_tb(trace)]
    # Where the program starts: a console script, `python -m`, or BasicSR's own train.py.
    begun = list(dropwhile(lambda module: module in ('__main__', 'runpy'), modules))
    return _LIBRARIES.issuperset(begun)


def _reader_has_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more, as after ``airnet ... | head``."""
    if not hasattr(select, 'poll'):  # Windows
        return False
    poll = select.poll()
    poll.register(sys.stdout, 0)
    if not any(events & select.POLLERR for _, events in poll.poll(0)):
        return False
    # Python writes what is left to it at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, BrokenPipeError) and _reader_has_gone():
        return
    explanation = explain(error)
    if explanation is None:
        _previous_hooks[-1](kind, error, trace)
    else:
        print(f'\nError: {explanation}', file=sys.stderr)
