"""Modulated deformable convolution in stock PyTorch, for machines where the compiled backend could not be built.

The feature map is a table of H*W rows; what one tap of one output pixel reads is a bag of four rows, weighted by
bilinear weight times mask. ``torch.nn.functional.embedding_bag`` sums such bags on all threads, and its backward gives
the gradients of both the rows and the weights.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Output pixels worked on at once: the columns of a tile take 9 * C * 4 bytes each.
TILE = 1 << 15


def _tile(
    table: torch.Tensor,
    offset: torch.Tensor,
    mask: torch.Tensor,
    weight: torch.Tensor,
    base: torch.Tensor,
    first_row: torch.Tensor,
    size: tuple[int, int],
) -> torch.Tensor:
    """Output pixels of one tile, P x O.

    Args:
        table: (B*H*W*G + 1) x (C/G) features; the last row, of zeros, is what lies outside the picture.
        offset, mask: 2 x P x G x K and P x G x K.
        weight: O x (K*C), the channels fastest.
        base: 2 x P x 1 x K, where each tap would read without an offset.
        first_row: P x 1 x 1, the pixel of ``table`` at which each picture begins.
        size: H, W.
    """
    groups, taps = offset.shape[2:]
    low, fraction, inside = [], [], []
    for axis, length in enumerate(size):
        # Beyond these bounds all corners lie outside; the clamp only keeps the integer conversion defined.
        at = (base[axis] + offset[axis]).clamp(-2, length + 1)
        floor = at.detach().floor()
        fraction.append(at - floor)
        low.append(floor.int())
        inside.append([(low[-1] >= 0) & (low[-1] < length), (low[-1] >= -1) & (low[-1] < length - 1)])
    upper_left = first_row + low[0] * size[1] + low[1]
    lower = mask * fraction[0]
    rows, weights = [], []
    for dy, vertical in enumerate((mask - lower, lower)):
        right = vertical * fraction[1]
        for dx, both in enumerate((vertical - right, right)):
            row = (upper_left + (dy * size[1] + dx)) * groups + torch.arange(groups, dtype=torch.int32).view(-1, 1)
            rows.append(row.where(inside[0][dy] & inside[1][dx], table.shape[0] - 1))
            weights.append(both)
    of_each, by = torch.stack(rows, -1).flatten(0, 2), torch.stack(weights, -1).flatten(0, 2)
    columns = F.embedding_bag(of_each, table, per_sample_weights=by, mode='sum')
    return columns.view(-1, groups, taps, table.shape[1]).transpose(1, 2).flatten(1) @ weight.t()


class _DeformConv(torch.autograd.Function):
    """Tile by tile in both directions, so that memory does not grow with 9 columns per pixel of the whole picture."""

    @staticmethod
    def forward(
        ctx: Any,
        table: Tensor,
        offset: Tensor,
        mask: Tensor,
        weight: Tensor,
        base: Tensor,
        first_row: Tensor,
        size: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(table, offset, mask, weight, base, first_row)
        ctx.size = size
        out = table.new_empty(mask.shape[0], weight.shape[0])
        for start in range(0, out.shape[0], TILE):
            part = slice(start, start + TILE)
            out[part] = _tile(table, offset[:, part], mask[part], weight, base[:, part], first_row[part], size)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        table, offset, mask, weight, base, first_row = ctx.saved_tensors
        table, weight = table.detach().requires_grad_(), weight.detach().requires_grad_()
        grad_table, grad_weight = torch.zeros_like(table), torch.zeros_like(weight)
        grad_offset, grad_mask = torch.empty_like(offset), torch.empty_like(mask)
        for start in range(0, mask.shape[0], TILE):
            part = slice(start, start + TILE)
            own_offset, own_mask = offset[:, part].detach().requires_grad_(), mask[part].detach().requires_grad_()
            with torch.enable_grad():
                out = _tile(table, own_offset, own_mask, weight, base[:, part], first_row[part], ctx.size)
            grads = torch.autograd.grad(out, (table, own_offset, own_mask, weight), grad_out[part])
            grad_table += grads[0]
            grad_offset[:, part], grad_mask[part] = grads[1:3]
            grad_weight += grads[3]
        return grad_table, grad_offset, grad_mask, grad_weight, None, None, None


def forward(
    x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor, *window: tuple[int, int]
) -> torch.Tensor:
    """See :func:`airnet_basicsr.network.ops.modulated_deform_conv2d`, whose checked arguments these are; half
    precision is computed in float32."""
    stride, padding, dilation = window
    dtype = torch.promote_types(x.dtype, torch.float32)
    batch, channels, height, width = x.shape
    rows, columns = offset_size = offset.shape[2:]
    taps = weight.shape[2] * weight.shape[3]
    groups = offset.shape[1] // (2 * taps)
    table = x.to(dtype, memory_format=torch.channels_last).permute(0, 2, 3, 1).reshape(-1, channels // groups)
    table = F.pad(table, (0, 0, 0, 1))
    offset = offset.to(dtype).reshape(batch, groups, taps, 2, rows, columns).permute(3, 0, 4, 5, 1, 2).flatten(1, 3)
    mask = mask.to(dtype).reshape(batch, groups, taps, rows, columns).permute(0, 3, 4, 1, 2).flatten(0, 2)

    reading = []
    for axis in (0, 1):
        out, tap = (
            torch.arange(side, dtype=dtype, device=x.device) for side in (offset_size[axis], weight.shape[2 + axis])
        )
        reads = out.view(-1, 1) * stride[axis] - padding[axis] + tap * dilation[axis]
        reads = reads[:, None, :, None] if axis == 0 else reads[None, :, None, :]
        reading.append(reads.expand(rows, columns, *weight.shape[2:]).reshape(1, -1, 1, taps))
    base = torch.cat(reading).repeat(1, batch, 1, 1)
    images = torch.arange(batch, dtype=torch.int32, device=x.device)
    first_row = (images * (height * width)).repeat_interleave(rows * columns)
    flat_weight = weight.to(dtype).permute(0, 2, 3, 1).flatten(1)
    out = _DeformConv.apply(table, offset, mask, flat_weight, base, first_row.view(-1, 1, 1), (height, width))
    return out.view(batch, rows, columns, -1).permute(0, 3, 1, 2).to(x.dtype)
