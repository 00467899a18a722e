"""The operator's one entrance: checks the arguments, chooses a backend, handles autocast and the bias."""

import logging
import os
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.ops import embedding_bag, native

VARIABLE = 'AIRNET_DCN_BACKEND'
_HALF = (torch.float16, torch.bfloat16)


def _torchvision(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, *window: tuple[int, int]) -> Tensor:
    import torchvision

    # The operator's own kernels know one dtype at a time, and no bfloat16.
    dtype = torch.promote_types(x.dtype, torch.float32)
    x_, offset, mask, weight = (t.to(dtype) for t in (x, offset, mask, weight))
    return torchvision.ops.deform_conv2d(x_, offset, weight, None, *window, mask).to(x.dtype)


def _triton(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, *window: tuple[int, int]) -> Tensor:
    from airnet_basicsr.network.ops import triton_kernels

    return triton_kernels.forward(x, offset, mask, weight, *window)


_BACKENDS: dict[str, Callable[..., Tensor]] = {
    'native': native.forward,
    'embedding_bag': embedding_bag.forward,
    'triton': _triton,
    'torchvision': _torchvision,
}
_FLOAT64 = {'embedding_bag', 'torchvision'}


class _Registered(NamedTuple):
    can_run: Callable[[], bool]
    prepare: Callable[[], object]


_REGISTERED: dict[str, _Registered] = {}
_default = ('auto', 'backend')  # and where it was named


def register_backend(
    name: str,
    forward: Callable[..., Tensor],
    can_run: Callable[[], bool],
    prepare: Callable[[], object],
    float64: bool,
) -> None:
    """Add a backend for CUDA, which 'auto' takes there before all others.

    Args:
        name: What ``backend`` and the environment variable AIRNET_DCN_BACKEND call it.
        forward: Called as the other backends are: x, offset, mask and weight, then stride, padding and dilation as
            pairs. It takes every dtype that :func:`modulated_deform_conv2d` takes, but float64 only if ``float64``.
        can_run: Whether this machine seems to have what the backend needs, beside the GPU.
        prepare: Called when the backend is chosen; it may take minutes the first time (a compiler), and raises
            InputError where the backend cannot run after all. 'auto' then takes another, with a warning.
        float64: Whether it computes in float64.
    """
    _BACKENDS[name], _REGISTERED[name] = forward, _Registered(can_run, prepare)
    if float64:
        _FLOAT64.add(name)


def set_default_backend(name: str, source: str) -> None:
    """Choose the backend for calls that name none, where the environment variable AIRNET_DCN_BACKEND names none either.

    Args:
        name: 'auto' or a name of :func:`available_backends`.
        source: What messages call the place where it was named.

    Raises:
        InputError: There is no such backend.
    """
    global _default
    _check_name(name, source)
    _default = name, source


def chosen_backend(device: str | torch.device = 'cpu', dtype: torch.dtype = torch.float32) -> str:
    """The backend that calls without one take on ``device``, made ready for use (built, if need be).

    Raises:
        InputError: As :func:`modulated_deform_conv2d`.
    """
    return _choose(None, torch.device(device).type, dtype)


@cache
def _installed(package: str) -> bool:
    return find_spec(package) is not None


def available_backends(device: str | torch.device = 'cpu') -> list[str]:
    """Names of the backends that can run on ``device``, the one that 'auto' chooses first."""
    if torch.device(device).type == 'cpu':
        names = ['native'] if native.library() else []
        return [*names, 'embedding_bag', *(['torchvision'] if _installed('torchvision') else [])]
    stock = 'torchvision' if _installed('torchvision') else 'embedding_bag'
    if torch.device(device).type != 'cuda':
        return [stock]
    registered = [name for name, backend in _REGISTERED.items() if backend.can_run()]
    # Chosen by name only, until it is measured.
    return [*registered, stock, *(['triton'] if _installed('triton') else [])]


@cache
def _say(backend: str, device: str) -> None:
    # BasicSR's logger by name: get_root_logger(), called before the training program's own call, would set up the
    # logger without its file.
    logging.getLogger('basicsr').info(f'Deformable convolution on {device}: {backend} backend.')


@cache
def _warn_of_slowness(device: str) -> None:
    warnings.warn(
        f'torchvision is not installed: the deformable convolution on {device} is computed slowly, in plain PyTorch',
        stacklevel=4,
    )


@cache
def _failure(name: str) -> str | None:
    """Make a registered backend ready; why it cannot be, or None."""
    try:
        _REGISTERED[name].prepare()
    except InputError as error:
        return str(error)
    return None


@cache
def _warn_of_failure(name: str, instead: str) -> None:
    logging.getLogger('basicsr').warning(
        f'The {name} backend of the deformable convolution cannot be used: {_failure(name)} The {instead} backend '
        f'takes its place; it gives the same results. {VARIABLE}={instead} leaves this warning out.'
    )


def _check_name(backend: str, source: str) -> None:
    if backend != 'auto' and backend not in _BACKENDS:
        raise InputError(f'{source}: there is no backend {backend!r}; choose one of {", ".join(("auto", *_BACKENDS))}.')


def _choose(backend: str | None, device: str, dtype: torch.dtype) -> str:
    source = 'backend'
    if backend is None:
        backend, source = _default
        if os.environ.get(VARIABLE):
            backend, source = os.environ[VARIABLE], f'environment variable {VARIABLE}'
    _check_name(backend, source)
    usable = available_backends(device)
    if backend != 'auto' and backend not in usable and not (device == 'cuda' and backend in _REGISTERED):
        raise InputError(
            f'{source}: the {backend!r} backend cannot run on {device} on this machine; choose auto or one of '
            f'{", ".join(usable)}.'
        )
    if dtype == torch.float64 and backend != 'auto' and backend not in _FLOAT64:
        raise InputError(
            f'{source}: the {backend!r} backend does not compute in float64; choose auto or one of '
            f'{", ".join(name for name in usable if name in _FLOAT64)}, or pass float32 tensors.'
        )
    if backend == 'auto':
        backend = _automatic(usable, device, dtype)
    elif backend in _REGISTERED and (failure := _failure(backend)):
        raise InputError(f'{source}: the {backend!r} backend cannot be used: {failure}')
    _say(backend, device)
    return backend


def _automatic(usable: list[str], device: str, dtype: torch.dtype) -> str:
    fitting = [name for name in usable if dtype != torch.float64 or name in _FLOAT64]
    # Also those that cannot run: their reason is worth a warning.
    registered = [name for name in _REGISTERED if device == 'cuda']
    stock = next(name for name in fitting if name not in registered)
    for name in registered:
        if dtype == torch.float64 and name not in _FLOAT64:
            continue
        if _failure(name) is None:
            return name
        _warn_of_failure(name, stock)
    if stock == 'embedding_bag' and device != 'cpu':
        _warn_of_slowness(device)
    return stock


# What torch.compiler.assume_constant_result sets, which imports torch._dynamo: as long as torch itself takes.
vars(_choose).update(_dynamo_marked_constant=True)


def _pair(name: str, value: int | tuple[int, int], least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= least for v in pair):
        raise InputError(f'{name} is {value!r}; it must be a whole number of at least {least}, or two of them.')
    return pair


def _check(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    """Raises InputError at the first thing that does not fit."""
    tensors = {'x': x, 'offset': offset, 'mask': mask, 'weight': weight}
    for name, tensor in tensors.items():
        if tensor.dim() != 4:
            raise InputError(f'{name} has the shape {tuple(tensor.shape)}; it must have four dimensions.')
    if bias is not None:
        tensors['bias'] = bias
    for name, tensor in tensors.items():
        if tensor.device != x.device:
            raise InputError(f'x is on {x.device} but {name} on {tensor.device}; move all tensors to one device.')
        # Offsets need more digits than half precision has, so they may stay in float32 beside it.
        finer = name in ('offset', 'mask') and x.dtype in _HALF and tensor.dtype == torch.float32
        if tensor.dtype != x.dtype and not finer:
            raise InputError(f'x is {x.dtype} but {name} is {tensor.dtype}; convert all tensors to one dtype.')
    if x.dtype not in (torch.float32, torch.float64, *_HALF):
        raise InputError(f'x is {x.dtype}; it must be float32, float64, bfloat16 or float16.')

    if weight.shape[1] != x.shape[1]:
        raise InputError(f'weight is for {weight.shape[1]} input channels, but x has {x.shape[1]}.')
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise InputError(f'bias has the shape {tuple(bias.shape)}; for this weight it must be ({weight.shape[0]},).')
    if 0 in x.shape or 0 in weight.shape:
        raise InputError(f'x {tuple(x.shape)} and weight {tuple(weight.shape)} must not be empty.')
    taps = weight.shape[2] * weight.shape[3]
    size = tuple(
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )
    if min(size) < 1:
        raise InputError(f'x is {x.shape[2]}x{x.shape[3]}, smaller than the kernel; pad it or choose more padding.')
    groups = mask.shape[1] // taps
    if groups == 0 or mask.shape[1] % taps or x.shape[1] % groups:
        raise InputError(
            f'mask has {mask.shape[1]} channels; it must have {taps} (one per tap) for each offset group, and the '
            f'number of offset groups must divide the {x.shape[1]} channels of x.'
        )
    for name, channels in (('offset', 2 * groups * taps), ('mask', groups * taps)):
        expected = (x.shape[0], channels, *size)
        if tuple(tensors[name].shape) != expected:
            raise InputError(
                f'{name} has the shape {tuple(tensors[name].shape)}; for this x, weight and {groups} offset group(s) '
                f'it must be {expected}.'
            )


def modulated_deform_conv2d(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    backend: str | None = None,
) -> Tensor:
    """Modulated deformable convolution (DCNv2, arXiv 1811.11168), with zeros outside the picture.

    All backends give the values and gradients of ``torchvision.ops.deform_conv2d``. Under autocast, x, weight and bias
    take the autocast dtype while offset and mask, which carry coordinates, stay in float32.

    Args:
        x: B x C x H x W, float32, float64, bfloat16 or float16.
        offset: B x (2*G*K) x Ho x Wo for G offset groups and K taps; y before x for each tap, in pixels.
        mask: B x (G*K) x Ho x Wo, already activated.
        weight: O x C x kh x kw.
        bias: O, or None.
        stride: for both axes, or (vertical, horizontal).
        padding: likewise.
        dilation: likewise.
        backend: a name of :func:`available_backends`, or 'auto'. None: the environment variable AIRNET_DCN_BACKEND,
            or else the choice of :func:`set_default_backend`, or else 'auto'.

    Returns:
        B x O x Ho x Wo in x's dtype (under autocast, the autocast dtype) and memory format.

    Raises:
        InputError: if shapes, dtypes or devices do not fit each other, or the backend is unknown or unavailable.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight = x.to(dtype), weight.to(dtype)
        offset, mask = offset.float(), mask.float()
        bias = None if bias is None else bias.to(dtype)
    stride, padding = _pair('stride', stride, 1), _pair('padding', padding, 0)
    dilation = _pair('dilation', dilation, 1)
    _check(x, offset, mask, weight, bias, stride, padding, dilation)
    run = _BACKENDS[_choose(backend, device, x.dtype)]
    with torch.autocast(device, enabled=False):
        out = run(x, offset, mask, weight, stride, padding, dilation)
    if bias is not None:
        out = out + bias.view(1, -1, 1, 1)
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return out.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
