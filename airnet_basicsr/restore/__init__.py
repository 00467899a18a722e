"""Restoring people's own pictures. Nothing here knows BasicSR."""

from typing import Any

__all__ = ['Resemblance', 'Restorer']


def __getattr__(name: str) -> Any:
    # At first use: reading a picture file needs no PyTorch, and `python -m airnet_basicsr.restore`, which imports this
    # first, still has to set what PyTorch reads at its import.
    if name in __all__:
        from airnet_basicsr.restore import restorer

        return getattr(restorer, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
