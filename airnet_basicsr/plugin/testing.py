"""``python -m airnet_basicsr.test -opt X.yml``: BasicSR's testing, with results below the working directory."""

import os

from torch import distributed

from airnet_basicsr.network.ops.memory import keep_freed
from airnet_basicsr.plugin.programs import handle_errors
from basicsr.test import test_pipeline


def main(root_path: str | None = None) -> None:
    """Test as the command line's options say; results go to ``root_path``."""
    handle_errors()
    keep_freed()
    test_pipeline(root_path or os.getcwd())
    # As in airnet_basicsr.plugin.training.
    if distributed.is_initialized():
        distributed.destroy_process_group()
