"""Modulated deformable convolution in C++ for the CPU: see native.cpp, which setup.py builds where it finds a compiler.

The library knows nothing of Python or torch. It is called through ctypes, which releases the interpreter lock, from
two custom operators that torch.compile can leave whole.
"""

import ctypes
import itertools
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Groups of channels are padded to this, so that the library needs no code for odd ends.
CHANNELS = 16
_WINDOW = tuple(f'{what}_{axis}' for what in ('kernel', 'stride', 'padding', 'dilation') for axis in 'hw')


class _Problem(ctypes.Structure):
    """The struct of native.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ('batch', 'height', 'width', 'channels')),
        *((name, ctypes.c_int64) for name in ('out_height', 'out_width', 'out_channels')),
        *((name, ctypes.c_int64) for name in (*_WINDOW, 'groups')),
        ('offset_strides', ctypes.c_int64 * 4),
        ('mask_strides', ctypes.c_int64 * 4),
        ('bfloat16', ctypes.c_int64),
        ('threads', ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ('x', 'offset', 'mask', 'weight', 'out')),
        ('bounds', ctypes.POINTER(ctypes.c_int64)),
        *((name, ctypes.c_void_p) for name in ('grad_out', 'grad_x')),
        ('grad_x_extra', ctypes.POINTER(ctypes.c_void_p)),
        *((name, ctypes.c_void_p) for name in ('grad_offset', 'grad_mask')),
        ('grad_offset_strides', ctypes.c_int64 * 4),
        ('grad_mask_strides', ctypes.c_int64 * 4),
        ('grad_weight', ctypes.c_void_p),
        ('out_of_memory', ctypes.c_int64),
    ]


@cache
def library() -> ctypes.CDLL | None:
    """The built library, or None where there is none that can be loaded."""
    for path in Path(__file__).parent.glob('_native.*'):
        with suppress(OSError):
            return ctypes.CDLL(str(path))
    return None


def _strides(tensor: Tensor) -> ctypes.Array:
    return (ctypes.c_int64 * 4)(*tensor.stride())


def _problem(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, outs: int, window: list[int]) -> _Problem:
    """What forward and backward share. ``x`` is B x C x H x W stored channels-last; ``window`` is kernel, stride,
    padding and dilation, two numbers each. The tensors must outlive the problem."""
    batch, channels, height, width = x.shape
    return _Problem(
        batch=batch, channels=channels, height=height, width=width,
        out_height=offset.shape[2], out_width=offset.shape[3], out_channels=outs,
        **dict(zip(_WINDOW, window, strict=True)), groups=mask.shape[1] // (window[0] * window[1]),
        offset_strides=_strides(offset), mask_strides=_strides(mask),
        bfloat16=x.dtype == torch.bfloat16, threads=torch.get_num_threads(),
        x=x.data_ptr(), offset=offset.data_ptr(), mask=mask.data_ptr(), weight=weight.data_ptr(),
    )  # fmt: skip


def _run(function: str, problem: _Problem) -> None:
    getattr(library(), function)(ctypes.byref(problem))
    if problem.out_of_memory:
        raise MemoryError('not enough memory for the buffers of the deformable convolution')


def _new(batch: int, channels: int, height: int, width: int, *, like: Tensor) -> Tensor:
    return torch.empty(batch, channels, height, width, dtype=like.dtype, memory_format=torch.channels_last)


def _compute(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, window: list[int]) -> Tensor:
    """x: float32 or bfloat16, as is the result; the others float32; weight: (taps * C) x O."""
    x, weight = x.contiguous(memory_format=torch.channels_last), weight.contiguous()
    out = _new(x.shape[0], weight.shape[1], *offset.shape[2:], like=x)
    problem = _problem(x, offset, mask, weight, weight.shape[1], window)
    problem.out = out.data_ptr()
    _run('airnet_forward', problem)
    return out


_forward = torch.library.custom_op('airnet_basicsr::deform_conv', _compute, mutates_args=())


@_forward.register_fake
def _(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, window: list[int]) -> Tensor:
    return _new(x.shape[0], weight.shape[1], *offset.shape[2:], like=x)


@torch.library.custom_op('airnet_basicsr::deform_conv_backward', mutates_args=())
def _backward(
    grad_out: Tensor, x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, window: list[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, grad_out = (t.contiguous(memory_format=torch.channels_last) for t in (x, grad_out))
    transposed = weight.t().contiguous()
    batch, channels, height, width = x.shape
    threads, image_pixels = torch.get_num_threads(), offset.shape[2] * offset.shape[3]
    bounds = [batch * image_pixels * thread // threads for thread in range(threads + 1)]
    # A thread that begins inside an image sums up its part of that image's gradient by itself, and the parts are
    # added below in a fixed order: the result is the same bit for bit from run to run.
    images = {t: bounds[t] // image_pixels for t in range(threads) if bounds[t] % image_pixels}
    extra = dict(zip(images, torch.zeros(len(images), height, width, channels), strict=True))
    grad_x = torch.zeros(batch, height, width, channels)
    grad_offset, grad_mask = torch.empty_like(offset), torch.empty_like(mask)
    grad_weight = torch.zeros(threads, *weight.shape)

    problem = _problem(x, offset, mask, transposed, weight.shape[1], window)
    problem.bounds = (ctypes.c_int64 * len(bounds))(*bounds)
    problem.grad_out, problem.grad_x, problem.grad_weight = (t.data_ptr() for t in (grad_out, grad_x, grad_weight))
    addresses = (extra[t].data_ptr() if t in extra else None for t in range(threads))
    problem.grad_x_extra = (ctypes.c_void_p * threads)(*addresses)
    problem.grad_offset, problem.grad_offset_strides = grad_offset.data_ptr(), _strides(grad_offset)
    problem.grad_mask, problem.grad_mask_strides = grad_mask.data_ptr(), _strides(grad_mask)
    _run('airnet_backward', problem)
    for thread, image in images.items():
        grad_x[image] += extra[thread]
    return grad_x.permute(0, 3, 1, 2).to(x.dtype), grad_offset, grad_mask, grad_weight.sum(0)


@_backward.register_fake
def _(
    grad_out: Tensor, x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, window: list[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _new(*x.shape, like=x), torch.empty_like(offset), torch.empty_like(mask), weight.new_empty(weight.shape)


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.window = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, grad_out: Tensor) -> tuple:
    return *_backward(grad_out, *ctx.saved_tensors, ctx.window), None


_forward.register_autograd(_gradients, setup_context=_setup)


def _pad_channels(tensor: Tensor, groups: int) -> Tensor:
    """B x C x ... with zeros after each group of channels, up to a multiple of CHANNELS."""
    missing = -(tensor.shape[1] // groups) % CHANNELS
    if missing == 0:
        return tensor
    tensor = tensor.unflatten(1, (groups, -1))
    return F.pad(tensor, [0, 0] * (tensor.dim() - 3) + [0, missing]).flatten(1, 2)


def forward(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, *window: tuple[int, int]) -> Tensor:
    """See :func:`airnet_basicsr.network.ops.modulated_deform_conv2d`, whose checked arguments these are. float16 is
    computed in float32; in bfloat16 the coordinates, weights and sums are float32."""
    dtype, outs = x.dtype, weight.shape[0]
    kernel = tuple(weight.shape[2:])
    groups = mask.shape[1] // (kernel[0] * kernel[1])
    if dtype == torch.float16:
        x = x.float()
    x = _pad_channels(x, groups)
    # To taps x C x O, both channel counts padded.
    weight = _pad_channels(weight.float(), groups).permute(2, 3, 1, 0)
    weight = F.pad(weight, (0, -outs % CHANNELS)).flatten(0, 2)
    # Restoring needs neither autograd nor torch.compile, for which the operator is; its first call imports
    # torch._dynamo, which takes as long as torch itself.
    plain = type(x) is Tensor and not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    run = _compute if plain else _forward
    out = run(x, offset.float(), mask.float(), weight, [*kernel, *itertools.chain(*window)])
    # Not a view where it need not be: to write into one in place costs autograd copies.
    return (out if out.shape[1] == outs else out[:, :outs]).to(dtype)
