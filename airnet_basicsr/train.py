"""``python -m airnet_basicsr.train -opt X.yml``: the toolbox's training, with results below the working directory.

``--dry-run`` prints what it would cost instead; all other options are the toolbox's.
"""

import os
import sys

from torch import distributed

from airnet_basicsr.dry_run import dry_run
from basicsr.train import train_pipeline


def main(root_path: str | None = None) -> None:
    """Train as the command line's options say; experiments go to ``root_path``."""
    root_path = root_path or os.getcwd()
    if '--dry-run' in sys.argv:
        sys.argv.remove('--dry-run')
        dry_run(root_path)
    else:
        train_pipeline(root_path)
    # The toolbox leaves the group of processes to the interpreter's end, of which PyTorch warns.
    if distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == '__main__':
    main()
