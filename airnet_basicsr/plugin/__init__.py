"""AirNet for BasicSR. ``import airnet_basicsr.plugin`` registers AirNet's parts in BasicSR's registries and repairs it.

Option files ask for it: ``plugin: !!python/name:airnet_basicsr.plugin.__name__ ''``.
"""

from airnet_basicsr.plugin import repairs

repairs.before_import()

from airnet_basicsr.plugin import archs, data, dcnv2, losses, metrics, models  # noqa: E402

dcnv2.register()
repairs.after_import()

__all__ = ['archs', 'data', 'losses', 'metrics', 'models']
