from airnet_basicsr.archs.airnet_arch import AirNet, Encoding

__all__ = ['AirNet', 'Encoding']
