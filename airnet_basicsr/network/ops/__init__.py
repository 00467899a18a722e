"""Modulated deformable convolution (DCNv2), the operator in which AirNet spends its time, with several backends."""

from airnet_basicsr.network.ops.deform_conv import (
    available_backends,
    chosen_backend,
    modulated_deform_conv2d,
    register_backend,
    set_default_backend,
)

__all__ = [
    'available_backends',
    'chosen_backend',
    'modulated_deform_conv2d',
    'register_backend',
    'set_default_backend',
]
