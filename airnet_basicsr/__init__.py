"""AirNet: pictures restored (:class:`Restorer`), and the network trained and tested in BasicSR.

Importing this package imports nothing else. ``import airnet_basicsr.plugin`` registers AirNet's parts in BasicSR.
"""

__version__ = '0.1.0'

__all__ = ['Restorer', '__version__']


def __getattr__(name: str) -> type:
    # At first use: neither the version nor the command line's help needs PyTorch.
    if name == 'Restorer':
        from airnet_basicsr.restore import Restorer

        return Restorer
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
