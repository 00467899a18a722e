"""AirNet for BasicSR. Importing this package registers its parts in the toolbox's registries."""

from airnet_basicsr import errors, toolbox_fixes

__version__ = '0.1.0'

toolbox_fixes.before_import()

from airnet_basicsr import archs, data, losses, metrics, models  # noqa: E402

toolbox_fixes.after_import()

__all__ = ['Restorer', 'archs', 'data', 'errors', 'losses', 'metrics', 'models', 'toolbox_fixes']


def __getattr__(name: str) -> type:
    # At first use: training needs none of it.
    if name == 'Restorer':
        from airnet_basicsr.restorer import Restorer

        return Restorer
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
