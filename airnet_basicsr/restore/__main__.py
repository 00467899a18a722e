"""``python -m airnet_basicsr.restore``, which is ``airnet restore``."""

import sys

from airnet_basicsr.__main__ import run

if __name__ == '__main__':
    sys.exit(run('restore'))
