from airnet_basicsr.plugin.data import camera, composite, weather  # noqa: F401  (they register)
from airnet_basicsr.plugin.data.degradation_test_dataset import DegradationTestDataset
from airnet_basicsr.plugin.data.degradations import DEGRADATION_REGISTRY
from airnet_basicsr.plugin.data.multi_degradation_dataset import MultiDegradationDataset

__all__ = ['DEGRADATION_REGISTRY', 'DegradationTestDataset', 'MultiDegradationDataset']
