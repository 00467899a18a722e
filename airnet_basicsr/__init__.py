"""AirNet for BasicSR. Importing this package registers its parts in the toolbox's registries."""

from airnet_basicsr import errors, toolbox_fixes

toolbox_fixes.before_import()

from airnet_basicsr import archs, data, losses, models  # noqa: E402

toolbox_fixes.after_import()

__version__ = '0.1.0'

__all__ = ['archs', 'data', 'errors', 'losses', 'models', 'toolbox_fixes']
