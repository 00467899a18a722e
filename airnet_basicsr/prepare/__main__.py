"""``python -m airnet_basicsr.prepare``."""

from airnet_basicsr.prepare.command import run

if __name__ == '__main__':
    run()
