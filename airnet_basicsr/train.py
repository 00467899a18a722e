"""``python -m airnet_basicsr.train -opt X.yml``: see :mod:`airnet_basicsr.plugin.training`."""

from airnet_basicsr.plugin.training import main

__all__ = ['main']

if __name__ == '__main__':
    main()
