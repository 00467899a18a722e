"""How a network is computed: the section ``compute`` of training and test options. Results differ by rounding only."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.airnet import GuidedDeformConv
from airnet_basicsr.network.ops import chosen_backend, set_default_backend
from airnet_basicsr.plugin.options import check_keys

_SWITCHES = ('channels_last', 'tf32', 'compile')


def apply(opt: dict[str, Any]) -> None:
    """Check the section ``compute`` and do what concerns the whole process: the default backend, TF32.

    Raises:
        InputError: The section cannot be used.
    """
    compute = _section(opt)
    check_keys(compute, ('dcn_backend', *_SWITCHES), 'compute')
    for key in _SWITCHES:
        if compute.get(key) not in (None, True, False):
            raise InputError(f'option compute:{key}: expected true, false or nothing, found {compute[key]!r}')
    set_default_backend(compute.get('dcn_backend') or 'auto', 'option compute:dcn_backend')
    if compute.get('tf32') is not None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = compute['tf32']


def backend_of(net: nn.Module, device: torch.device) -> str | None:
    """The backend of the network's deformable convolutions, ready for use; None where it has none."""
    deformable = any(isinstance(module, GuidedDeformConv) for module in net.modules())
    return chosen_backend(device) if deformable else None


def compile_if_asked(net: nn.Module, opt: dict[str, Any]) -> None:
    """In place, so that parameters keep their names. For training only: a test's pictures have many sizes."""
    if opt['is_train'] and _section(opt).get('compile'):
        net.compile()


def memory_format(net: nn.Module, device: torch.device, opt: dict[str, Any]) -> torch.memory_format:
    """The format of the network's inputs, which all feature maps take over.

    Without ``channels_last`` in the options it is the one that the deformable convolution computes in, since 50 of them
    would otherwise copy their input and output: channels-last on a CPU and with triton, contiguous with BasicSR's and
    torchvision's kernels.

    Raises:
        InputError: Channels-last was asked for where it is not safe.
    """
    wanted = _section(opt).get('channels_last')
    # In the backward of strided convolutions of less than 16 channels, oneDNN (PyTorch 2.11, AVX-512) writes beyond its
    # memory in this format.
    strided = (m for m in net.modules() if isinstance(m, nn.Conv2d) and m.stride != (1, 1))
    safe = device.type != 'cpu' or all(conv.in_channels >= 16 for conv in strided)
    if wanted and not safe:
        raise InputError(
            'option compute:channels_last: not safe on a CPU for a network with strided convolutions of fewer than 16 '
            'channels (a fault of oneDNN); leave it out'
        )
    if wanted is None:
        wanted = safe if device.type == 'cpu' else backend_of(net, device) == 'triton'
    return torch.channels_last if wanted else torch.contiguous_format


def _section(opt: dict[str, Any]) -> Mapping[str, Any]:
    section = opt.get('compute')
    return {} if section is None else section
