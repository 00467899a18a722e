from airnet_basicsr.plugin.archs.airnet_arch import AirNet

__all__ = ['AirNet']
