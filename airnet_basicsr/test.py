"""``python -m airnet_basicsr.test -opt X.yml``: see :mod:`airnet_basicsr.plugin.testing`."""

from airnet_basicsr.plugin.testing import main

__all__ = ['main']

if __name__ == '__main__':
    main()
