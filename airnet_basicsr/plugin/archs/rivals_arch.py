"""The networks that AirNet is compared with among BasicSR's: ``network_g: {type: DnCNN}``, and so on."""

from basicsr.utils.registry import ARCH_REGISTRY

from airnet_basicsr.network.recognise import RIVALS

for network in RIVALS:
    ARCH_REGISTRY.register(network)
