from airnet_basicsr.models.airnet_model import AirNetModel

__all__ = ['AirNetModel']
