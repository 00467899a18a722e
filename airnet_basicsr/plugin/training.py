"""``python -m airnet_basicsr.train -opt X.yml``: BasicSR's training, with results below the working directory.

``--dry-run`` prints what it would cost instead; all other options are BasicSR's.
"""

import os
import sys

from torch import distributed

from airnet_basicsr.network.ops.memory import keep_freed
from airnet_basicsr.plugin.dry_run import dry_run
from airnet_basicsr.plugin.models.interruption import interruption
from airnet_basicsr.plugin.programs import command_line, handle_errors, nothing_left_to_save
from basicsr.train import train_pipeline

EPILOG = """\
examples:
  airnet train -opt options/train_airnet_aio.yml --dry-run
  airnet train -opt options/train_airnet_aio.yml --auto_resume
  torchrun --nproc_per_node=4 -m airnet_basicsr.train -opt FILE.yml --launcher pytorch --auto_resume

Results go to experiments/NAME. Exit status: 0 when training is done; 1 after an error; 75 after Ctrl-C or SIGTERM, with
a checkpoint saved, from which the same command with --auto_resume resumes. docs/training.md is the manual.
"""


def main(root_path: str | None = None) -> None:
    """Train as the command line's options say; experiments go to ``root_path``."""
    handle_errors()
    parser = command_line('Train a network in BasicSR.', EPILOG)
    parser.add_argument('--auto_resume', action='store_true', help='resume from the newest checkpoint, if there is one')
    parser.add_argument(
        '--dry-run', action='store_true', help='measure a few iterations, print what training will cost'
    )
    arguments, _ = parser.parse_known_args()
    keep_freed()
    root_path = root_path or os.getcwd()
    interrupted = None
    if arguments.dry_run:
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
