"""``python -m airnet_basicsr.prepare``, which is ``airnet prepare``."""

import sys

from airnet_basicsr.__main__ import run

if __name__ == '__main__':
    sys.exit(run('prepare'))
