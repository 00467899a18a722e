"""What the programs for training and testing share: their command line, and how an error ends them."""

import argparse
import logging
import sys
from collections.abc import Callable
from types import TracebackType

from airnet_basicsr.errors import end_in_one_line, explain

_last_acts: list[Callable[[], None]] = []
_explain: Callable[[type[BaseException], BaseException, TracebackType | None], object] | None = None


def command_line(description: str, epilog: str) -> argparse.ArgumentParser:
    """The options that BasicSR reads in training and in testing, for ``--help`` and to check that they are whole.

    BasicSR's own help describes few of them. Its parser still reads the command line, with what is not listed here.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog=epilog,
        allow_abbrev=False,  # BasicSR expands abbreviations itself
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('-opt', required=True, metavar='FILE.yml', help='option file')
    add(
        '--force_yml',
        nargs='+',
        metavar='KEY=VALUE',
        help="values in place of the option file's, as in datasets:train:gt_size=64",
    )
    add('--debug', action='store_true', help='put debug_ before the name; in training, log, save and validate often')
    add(
        '--launcher',
        choices=('none', 'pytorch', 'slurm'),
        default='none',
        help='how several processes were started: pytorch for torchrun, slurm for srun; default: none, one process',
    )
    return parser


def handle_errors() -> None:
    """For a program's ``main()``: what was given to :func:`at_failure` is done before an uncaught error is shown."""
    global _explain
    if _explain is None:
        end_in_one_line()
        _explain, sys.excepthook = sys.excepthook, _save_and_explain


def at_failure(act: Callable[[], None]) -> None:
    """Call ``act`` before an error that nobody catches ends the program, to save what can be saved.

    Outside of a program of ours, in a notebook say, this does nothing.
    """
    if _explain is not None:
        _last_acts.append(act)


def nothing_left_to_save() -> None:
    """Forget what :func:`at_failure` was given, and the networks and process groups that it keeps alive."""
    _last_acts.clear()


def _save_and_explain(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    while _last_acts:
        _last_acts.pop()()
    _log(kind, error, trace)
    assert _explain is not None, 'handle_errors() set it with this hook'
    _explain(kind, error, trace)


def _log(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Into the experiment's log file too: who looks at a run that ended has that, not always the terminal."""
    message = explain(error)
    record = logging.LogRecord(
        'basicsr',
        logging.ERROR,
        __file__,
        0,
        'The program ended with an error.' if message is None else f'Error: {message}',
        None,
        None if message is not None else (kind, error, trace),
    )
    for handler in logging.getLogger('basicsr').handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
