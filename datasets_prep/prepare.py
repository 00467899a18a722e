#!/usr/bin/env python
"""Makes and checks the datasets that the option files name, as ``airnet prepare``: see docs/datasets.md."""

import sys

from airnet_basicsr.__main__ import run

if __name__ == '__main__':
    sys.exit(run('prepare'))
