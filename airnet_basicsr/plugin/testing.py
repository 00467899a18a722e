"""``python -m airnet_basicsr.test -opt X.yml``: BasicSR's testing, with results below the working directory."""

import os

from torch import distributed

from airnet_basicsr.network.ops.memory import keep_freed
from airnet_basicsr.plugin.programs import command_line, handle_errors
from basicsr.test import test_pipeline

EPILOG = """\
examples:
  airnet test -opt options/test_airnet_aio.yml
  airnet test -opt options/test_airnet_aio_release.yml --force_yml path:pretrain_network_g=All.pth

Results go to results/NAME; airnet report makes tables and a page of them. docs/evaluation.md is the manual.
"""


def main(root_path: str | None = None) -> None:
    """Test as the command line's options say; results go to ``root_path``."""
    handle_errors()
    command_line('Test a network in BasicSR.', EPILOG).parse_known_args()
    keep_freed()
    test_pipeline(root_path or os.getcwd())
    # As in airnet_basicsr.plugin.training.
    if distributed.is_initialized():
        distributed.destroy_process_group()
