"""SIGTERM and SIGINT during training: finish the iteration, save, leave."""

import atexit
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from types import FrameType

import torch
from torch import distributed

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: run it again and it resumes
NUMBERS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Remembers the first SIGTERM or SIGINT; the second one ends the process at once.

    There is one, :data:`interruption`. Programs let it handle the signals; models ask it. Worker processes that start
    while :func:`held` never see either: they live as long as the process that they work for.

    Attributes:
        name: The signal that came, or None.
        can_save: Whether there is a model that saves when asked to leave. Before there is, a signal ends the process.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.can_save = False

    def handle_signals(self) -> None:
        """For a program's ``main()``, in its main thread."""
        self._process = os.getpid()
        for number in NUMBERS:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        for each in NUMBERS:
            signal.signal(each, signal.SIG_DFL)
        if not self.can_save:
            os.kill(self._process, number)
            return
        self.name = signal.Signals(number).name
        # Not print: it raises where the signal came in the middle of another one, or where nobody reads any more.
        message = f'\n{self.name}: saving after this iteration. Once more ends at once, without saving.\n'
        with suppress(OSError):
            os.write(1, message.encode())

    def agreed(self, device: torch.device) -> bool:
        """Whether any of the processes that train together was interrupted; all of them must ask at once."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return self.name is not None
        noted = torch.tensor(float(self.name is not None), device=device)
        distributed.all_reduce(noted)
        return bool(noted)


@contextmanager
def held() -> Iterator[None]:
    """Signals come after this block; processes that start in it are never reached by them, forked or spawned."""
    if not hasattr(signal, 'pthread_sigmask'):  # Windows
        yield
        return
    _end_workers_at_exit()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, NUMBERS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@cache
def _end_workers_at_exit() -> None:
    # multiprocessing ends the workers that are left with SIGTERM, which does not reach them, and then waits for them.
    atexit.register(_kill_workers)


def _kill_workers() -> None:
    # PyTorch's handler would report each of them as a worker that died.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in multiprocessing.active_children():
        if worker.daemon:
            worker.kill()


interruption = Interruption()
