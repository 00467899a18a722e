"""``python -m airnet_basicsr.restore``."""

import sys

from airnet_basicsr.restore.command import main

if __name__ == '__main__':
    sys.exit(main())
