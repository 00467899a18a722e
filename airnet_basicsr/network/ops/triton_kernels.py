"""Modulated deformable convolution for GPUs: sampling and matrix product in one Triton kernel.

The sampled columns live in registers and shared memory only. Data is channels-last, so that the corners of one tap are
contiguous runs of channels. The backward is two kernels: one for the gradients of x (by atomic addition: their last
bits vary from run to run), offset and mask, one for the weight's (partial sums, added in a fixed order).
"""

import itertools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

# Pixels per program. 64 x 64 products fill a warp group's tensor cores while four corner tiles still fit in registers.
BLOCK_PIXELS = 64
# Programs that share the sum over pixels in the weight's gradient.
SPLITS = 32


@triton.jit
def _corner(  # noqa: ANN202
    y, x, dy: tl.constexpr, dx: tl.constexpr, image, height, width, channels, valid
):
    """Index of a corner's first channel, for loads under the mask that says whether the corner is in the picture."""
    y, x = y + dy, x + dx
    inside = valid & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return ((image * height + y) * width + x) * channels, inside


@triton.jit
def _point(  # noqa: ANN202
    offset, mask, pixel, valid, group, tap, height, width, out_height, out_width,
    os0, os1, os2, os3, ms0, ms1, ms2, ms3,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr, PADDING_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
):  # fmt: skip
    """For each output pixel: image, row, column, upper left corner, fractions, modulation."""
    column, row = pixel % out_width, pixel // out_width % out_height
    image = (pixel // (out_width * out_height)).to(tl.int64)
    place = group * KERNEL_H * KERNEL_W + tap
    at = offset + image * os0 + 2 * place * os1 + row * os2 + column * os3
    y = tl.load(at, valid, 0.0) + (row * STRIDE_H - PADDING_H + tap // KERNEL_W * DILATION_H)
    x = tl.load(at + os1, valid, 0.0) + (column * STRIDE_W - PADDING_W + tap % KERNEL_W * DILATION_W)
    modulation = tl.load(mask + image * ms0 + place * ms1 + row * ms2 + column * ms3, valid, 0.0)
    # Beyond these bounds all corners lie outside; the clamp only keeps the integer conversion defined.
    y, x = tl.clamp(y, -2.0, height + 1.0), tl.clamp(x, -2.0, width + 1.0)
    top, left = tl.floor(y), tl.floor(x)
    return image, row, column, top.to(tl.int32), left.to(tl.int32), y - top, x - left, modulation


@triton.jit
def _forward_kernel(  # noqa: ANN202
    x, offset, mask, weight, out, pixels, height, width, out_height, out_width,
    os0, os1, os2, os3, ms0, ms1, ms2, ms3,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr, PADDING_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    CHANNELS: tl.constexpr, GROUP_CHANNELS: tl.constexpr, OUTS: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = pixel < pixels
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    c = tl.arange(0, BLOCK_C)
    total = tl.zeros((BLOCK_M, BLOCK_O), tl.float32)
    for step in range(CHANNELS // GROUP_CHANNELS * KERNEL_H * KERNEL_W):
        group, tap = step // (KERNEL_H * KERNEL_W), step % (KERNEL_H * KERNEL_W)
        image, _, _, top, left, fy, fx, modulation = _point(
            offset, mask, pixel, valid, group, tap, height, width, out_height, out_width,
            os0, os1, os2, os3, ms0, ms1, ms2, ms3,
            KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, PADDING_H, PADDING_W, DILATION_H, DILATION_W,
        )  # fmt: skip
        at0, in0 = _corner(top, left, 0, 0, image, height, width, CHANNELS, valid)
        at1, in1 = _corner(top, left, 0, 1, image, height, width, CHANNELS, valid)
        at2, in2 = _corner(top, left, 1, 0, image, height, width, CHANNELS, valid)
        at3, in3 = _corner(top, left, 1, 1, image, height, width, CHANNELS, valid)
        w0, w1 = (1 - fy) * (1 - fx) * modulation, (1 - fy) * fx * modulation
        w2, w3 = fy * (1 - fx) * modulation, fy * fx * modulation
        for start in range(0, GROUP_CHANNELS, BLOCK_C):
            own = start + c < GROUP_CHANNELS
            channel = x + group * GROUP_CHANNELS + start + c[None, :]
            sampled = w0[:, None] * tl.load(channel + at0[:, None], in0[:, None] & own[None, :], 0.0).to(tl.float32)
            sampled += w1[:, None] * tl.load(channel + at1[:, None], in1[:, None] & own[None, :], 0.0).to(tl.float32)
            sampled += w2[:, None] * tl.load(channel + at2[:, None], in2[:, None] & own[None, :], 0.0).to(tl.float32)
            sampled += w3[:, None] * tl.load(channel + at3[:, None], in3[:, None] & own[None, :], 0.0).to(tl.float32)
            row = tap * CHANNELS + group * GROUP_CHANNELS + start + c
            columns = tl.load(weight + row[:, None] * OUTS + o[None, :], own[:, None] & (o < OUTS)[None, :], 0.0)
            total = tl.dot(sampled.to(columns.dtype), columns, total, input_precision=PRECISION)
    tl.store(
        out + pixel[:, None].to(tl.int64) * OUTS + o[None, :],
        total.to(out.dtype.element_ty),
        valid[:, None] & (o < OUTS)[None, :],
    )


@triton.jit
def _backward_kernel(  # noqa: ANN202
    x, offset, mask, weight, grad_out, grad_x, grad_offset, grad_mask,
    pixels, height, width, out_height, out_width,
    os0, os1, os2, os3, ms0, ms1, ms2, ms3, gos0, gos1, gos2, gos3, gms0, gms1, gms2, gms3,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr, PADDING_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    CHANNELS: tl.constexpr, GROUP_CHANNELS: tl.constexpr, OUTS: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """Gradients of x, offset and mask, for one group and tap."""
    pixel = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = pixel < pixels
    group, tap = tl.program_id(1) // (KERNEL_H * KERNEL_W), tl.program_id(1) % (KERNEL_H * KERNEL_W)
    image, row, column, top, left, fy, fx, modulation = _point(
        offset, mask, pixel, valid, group, tap, height, width, out_height, out_width,
        os0, os1, os2, os3, ms0, ms1, ms2, ms3,
        KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, PADDING_H, PADDING_W, DILATION_H, DILATION_W,
    )  # fmt: skip
    at0, in0 = _corner(top, left, 0, 0, image, height, width, CHANNELS, valid)
    at1, in1 = _corner(top, left, 0, 1, image, height, width, CHANNELS, valid)
    at2, in2 = _corner(top, left, 1, 0, image, height, width, CHANNELS, valid)
    at3, in3 = _corner(top, left, 1, 1, image, height, width, CHANNELS, valid)
    dot0, dot1 = tl.zeros((BLOCK_M,), tl.float32), tl.zeros((BLOCK_M,), tl.float32)
    dot2, dot3 = tl.zeros((BLOCK_M,), tl.float32), tl.zeros((BLOCK_M,), tl.float32)
    w0, w1, w2, w3 = (1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx
    for start in range(0, GROUP_CHANNELS, BLOCK_C):
        c = start + tl.arange(0, BLOCK_C)
        own = c < GROUP_CHANNELS
        c += group * GROUP_CHANNELS
        grad = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)  # of the columns
        for first in range(0, OUTS, BLOCK_O):
            o = first + tl.arange(0, BLOCK_O)
            seen = tl.load(
                grad_out + pixel[:, None].to(tl.int64) * OUTS + o[None, :], valid[:, None] & (o < OUTS)[None, :], 0.0
            )
            transposed = weight + (tap * CHANNELS + c)[None, :] * OUTS + o[:, None]
            columns = tl.load(transposed, own[None, :] & (o < OUTS)[:, None], 0.0)
            grad = tl.dot(seen, columns, grad, input_precision=PRECISION)
        own0, own1 = in0[:, None] & own[None, :], in1[:, None] & own[None, :]
        own2, own3 = in2[:, None] & own[None, :], in3[:, None] & own[None, :]
        dot0 += tl.sum(grad * tl.load(x + at0[:, None] + c[None, :], own0, 0.0).to(tl.float32), 1)
        dot1 += tl.sum(grad * tl.load(x + at1[:, None] + c[None, :], own1, 0.0).to(tl.float32), 1)
        dot2 += tl.sum(grad * tl.load(x + at2[:, None] + c[None, :], own2, 0.0).to(tl.float32), 1)
        dot3 += tl.sum(grad * tl.load(x + at3[:, None] + c[None, :], own3, 0.0).to(tl.float32), 1)
        grad *= modulation[:, None]
        tl.atomic_add(grad_x + at0[:, None] + c[None, :], w0[:, None] * grad, own0, sem='relaxed')
        tl.atomic_add(grad_x + at1[:, None] + c[None, :], w1[:, None] * grad, own1, sem='relaxed')
        tl.atomic_add(grad_x + at2[:, None] + c[None, :], w2[:, None] * grad, own2, sem='relaxed')
        tl.atomic_add(grad_x + at3[:, None] + c[None, :], w3[:, None] * grad, own3, sem='relaxed')
    place = tl.program_id(1)
    at = grad_mask + image * gms0 + place * gms1 + row * gms2 + column * gms3
    tl.store(at, w0 * dot0 + w1 * dot1 + w2 * dot2 + w3 * dot3, valid)
    at = grad_offset + image * gos0 + 2 * place * gos1 + row * gos2 + column * gos3
    tl.store(at, modulation * ((1 - fx) * (dot2 - dot0) + fx * (dot3 - dot1)), valid)
    tl.store(at + gos1, modulation * ((1 - fy) * (dot1 - dot0) + fy * (dot3 - dot2)), valid)


@triton.jit
def _weight_kernel(  # noqa: ANN202
    x, offset, mask, grad_out, grad_weight,
    pixels, height, width, out_height, out_width,
    os0, os1, os2, os3, ms0, ms1, ms2, ms3,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PADDING_H: tl.constexpr, PADDING_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    CHANNELS: tl.constexpr, GROUP_CHANNELS: tl.constexpr, OUTS: tl.constexpr, BLOCKS_PER_SPLIT: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """Gradient of the weight, for one tap, block of channels and of outputs, summed over one share of the pixels."""
    blocks = tl.cdiv(GROUP_CHANNELS, BLOCK_C)
    tap, block = tl.program_id(0) // blocks % (KERNEL_H * KERNEL_W), tl.program_id(0) % blocks
    group = tl.program_id(0) // blocks // (KERNEL_H * KERNEL_W)
    c = block * BLOCK_C + tl.arange(0, BLOCK_C)
    own = c < GROUP_CHANNELS
    c += group * GROUP_CHANNELS
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    split = tl.program_id(2)
    total = tl.zeros((BLOCK_C, BLOCK_O), tl.float32)
    for step in range(BLOCKS_PER_SPLIT):
        pixel = (split * BLOCKS_PER_SPLIT + step) * BLOCK_M + tl.arange(0, BLOCK_M)
        valid = pixel < pixels
        image, _, _, top, left, fy, fx, modulation = _point(
            offset, mask, pixel, valid, group, tap, height, width, out_height, out_width,
            os0, os1, os2, os3, ms0, ms1, ms2, ms3,
            KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W, PADDING_H, PADDING_W, DILATION_H, DILATION_W,
        )  # fmt: skip
        at0, in0 = _corner(top, left, 0, 0, image, height, width, CHANNELS, valid)
        at1, in1 = _corner(top, left, 0, 1, image, height, width, CHANNELS, valid)
        at2, in2 = _corner(top, left, 1, 0, image, height, width, CHANNELS, valid)
        at3, in3 = _corner(top, left, 1, 1, image, height, width, CHANNELS, valid)
        w0, w1 = (1 - fy) * (1 - fx) * modulation, (1 - fy) * fx * modulation
        w2, w3 = fy * (1 - fx) * modulation, fy * fx * modulation
        # Sampled transposed, channels by pixels, as the product wants it.
        sampled = w0[None, :] * tl.load(x + at0[None, :] + c[:, None], in0[None, :] & own[:, None], 0.0).to(tl.float32)
        sampled += w1[None, :] * tl.load(x + at1[None, :] + c[:, None], in1[None, :] & own[:, None], 0.0).to(tl.float32)
        sampled += w2[None, :] * tl.load(x + at2[None, :] + c[:, None], in2[None, :] & own[:, None], 0.0).to(tl.float32)
        sampled += w3[None, :] * tl.load(x + at3[None, :] + c[:, None], in3[None, :] & own[:, None], 0.0).to(tl.float32)
        seen = tl.load(
            grad_out + pixel[:, None].to(tl.int64) * OUTS + o[None, :], valid[:, None] & (o < OUTS)[None, :], 0.0
        )
        total = tl.dot(sampled.to(seen.dtype), seen, total, input_precision=PRECISION)
    row = split * KERNEL_H * KERNEL_W * CHANNELS + tap * CHANNELS + c
    tl.store(grad_weight + row[:, None] * OUTS + o[None, :], total, own[:, None] & (o < OUTS)[None, :])


def _settings(x: Tensor, mask: Tensor, outs: int, window: tuple[int, ...]) -> dict[str, Any]:
    """The constants that all kernels are compiled for."""
    groups = mask.shape[1] // (window[0] * window[1])
    names = ('KERNEL', 'STRIDE', 'PADDING', 'DILATION')
    return {
        'CHANNELS': x.shape[1],
        'GROUP_CHANNELS': x.shape[1] // groups,
        'OUTS': outs,
        **dict(zip((f'{name}_{axis}' for name in names for axis in 'HW'), window, strict=True)),
        # PyTorch's own option for float32 products; half precision ignores it.
        'PRECISION': 'tf32' if torch.backends.cuda.matmul.allow_tf32 else 'ieee',
        'BLOCK_M': BLOCK_PIXELS,
        # Three stages of corner tiles, the default, would leave room for one program only on each multiprocessor.
        'num_stages': 2,
        'BLOCK_C': min(64, max(16, triton.next_power_of_2(x.shape[1] // groups))),
        'BLOCK_O': min(64, max(16, triton.next_power_of_2(outs))),
    }


class _DeformConv(torch.autograd.Function):
    """x channels-last; offset and mask float32 with any strides; weight (taps * C) x O in x's dtype."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, window: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(x, offset, mask, weight)
        ctx.window = window
        (batch, _, height, width), outs = x.shape, weight.shape[1]
        out_size = tuple(offset.shape[2:])
        settings = _settings(x, mask, outs, window)
        out = torch.empty(batch, outs, *out_size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        pixels = batch * out_size[0] * out_size[1]
        grid = (triton.cdiv(pixels, settings['BLOCK_M']), triton.cdiv(outs, settings['BLOCK_O']))
        _forward_kernel[grid](
            x, offset, mask, weight, out, pixels, height, width, *out_size,
            *offset.stride(), *mask.stride(), **settings,
        )  # fmt: skip
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, offset, mask, weight = ctx.saved_tensors
        (batch, _, height, width), outs = x.shape, weight.shape[1]
        out_size = tuple(offset.shape[2:])
        settings = _settings(x, mask, outs, ctx.window)
        places, pixels = mask.shape[1], batch * out_size[0] * out_size[1]
        grad_out = grad_out.contiguous(memory_format=torch.channels_last)
        grad_x = torch.zeros_like(x, dtype=torch.float32, memory_format=torch.channels_last)
        grad_offset, grad_mask = torch.empty_like(offset), torch.empty_like(mask)
        sizes = (pixels, height, width, *out_size)
        strides = (*offset.stride(), *mask.stride())
        blocks = triton.cdiv(pixels, settings['BLOCK_M'])
        _backward_kernel[(blocks, places)](
            x, offset, mask, weight, grad_out, grad_x, grad_offset, grad_mask, *sizes,
            *strides, *grad_offset.stride(), *grad_mask.stride(), **settings,
        )  # fmt: skip
        splits = min(SPLITS, blocks)
        grad_weight = torch.empty(splits, *weight.shape, device=x.device)
        channel_blocks = triton.cdiv(settings['GROUP_CHANNELS'], settings['BLOCK_C'])
        grid = (places * channel_blocks, triton.cdiv(outs, settings['BLOCK_O']), splits)
        _weight_kernel[grid](
            x, offset, mask, grad_out, grad_weight, *sizes, *strides,
            BLOCKS_PER_SPLIT=triton.cdiv(blocks, splits), **settings,
        )  # fmt: skip
        return grad_x.to(x.dtype), grad_offset, grad_mask, grad_weight.sum(0).to(weight.dtype), None


def forward(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, *window: tuple[int, int]) -> Tensor:
    """See :func:`airnet_basicsr.network.ops.modulated_deform_conv2d`, whose checked arguments these are. Products are
    in x's dtype (float32: tf32 if ``torch.backends.cuda.matmul.allow_tf32``), sums and coordinates in float32."""
    sizes = (*weight.shape[2:], *itertools.chain(*window))
    x = x.contiguous(memory_format=torch.channels_last)
    flat_weight = weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()
    return _DeformConv.apply(x, offset.float(), mask.float(), flat_weight, sizes)
