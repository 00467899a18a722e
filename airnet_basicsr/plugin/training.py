"""``python -m airnet_basicsr.train -opt X.yml``: BasicSR's training, with results below the working directory.

``--dry-run`` prints what it would cost instead; all other options are BasicSR's.
"""

import os
import sys

from torch import distributed

from airnet_basicsr.network.ops.memory import keep_freed
from airnet_basicsr.plugin.dry_run import dry_run
from airnet_basicsr.plugin.models.interruption import interruption
from airnet_basicsr.plugin.programs import handle_errors, nothing_left_to_save
from basicsr.train import train_pipeline


def main(root_path: str | None = None) -> None:
    """Train as the command line's options say; experiments go to ``root_path``."""
    handle_errors()
    keep_freed()
    root_path = root_path or os.getcwd()
    interrupted = None
    if '--dry-run' in sys.argv:
        sys.argv.remove('--dry-run')
        dry_run(root_path)
    else:
        interruption.handle_signals()
        try:
            train_pipeline(root_path)
        except SystemExit as error:
            interrupted = error.code
    nothing_left_to_save()
    # BasicSR leaves the group of processes to the interpreter's end, of which PyTorch warns. Its threads end when
    # the network that used them is gone, too: one that lets go of a tensor while the interpreter ends aborts the
    # process ("terminate called without an active exception").
    if distributed.is_initialized():
        distributed.destroy_process_group()
    if interrupted is not None:
        sys.exit(interrupted)
