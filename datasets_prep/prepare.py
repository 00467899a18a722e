#!/usr/bin/env python
"""Makes and checks the datasets that the option files name: see docs/datasets.md."""

from airnet_basicsr.prepare.command import run

if __name__ == '__main__':
    run()
