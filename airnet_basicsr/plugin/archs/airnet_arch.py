"""AirNet among BasicSR's networks: ``network_g: {type: AirNet}``."""

from basicsr.utils.registry import ARCH_REGISTRY

from airnet_basicsr.network.airnet import AirNet

ARCH_REGISTRY.register(AirNet)
