from airnet_basicsr.models.airnet_model import AirNetModel
from airnet_basicsr.models.baselines import CBM3D, NoRestoration
from airnet_basicsr.models.restoration_model import RestorationModel

__all__ = ['CBM3D', 'AirNetModel', 'NoRestoration', 'RestorationModel']
