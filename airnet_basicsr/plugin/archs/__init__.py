from airnet_basicsr.plugin.archs import rivals_arch  # noqa: F401  (registers)
from airnet_basicsr.plugin.archs.airnet_arch import AirNet

__all__ = ['AirNet']
