from airnet_basicsr.plugin.models.airnet_model import AirNetModel
from airnet_basicsr.plugin.models.baselines import CBM3D, NoRestoration
from airnet_basicsr.plugin.models.restoration_model import RestorationModel

__all__ = ['CBM3D', 'AirNetModel', 'NoRestoration', 'RestorationModel']
