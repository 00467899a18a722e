"""SIGTERM and SIGINT during training: finish the iteration, save, leave."""

import os
import signal
from types import FrameType

import torch
from torch import distributed

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: run it again and it goes on


class Interruption:
    """Remembers the first SIGTERM or SIGINT; the second one ends the process at once.

    Worker processes forked later ignore both: they live as long as the process that they work for.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._process = os.getpid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        self.name = signal.Signals(number).name
        print(f'\n{self.name}: saving after this iteration. Once more ends at once, without saving.', flush=True)
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)

    def agreed(self, device: torch.device) -> bool:
        """Whether any of the processes that train together was interrupted; all of them must ask at once."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return self.name is not None
        noted = torch.tensor(float(self.name is not None), device=device)
        distributed.all_reduce(noted)
        return bool(noted)
