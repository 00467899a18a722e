"""Testing images that are too large to be restored in one piece, or of a size that the network does not take."""

from collections.abc import Callable
from typing import Any

import torch
from basicsr.utils import get_root_logger
from torch import Tensor, nn
from torch.nn import functional as F

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.airnet import AirNet, overlap_of
from airnet_basicsr.network.traits import traits_of
from airnet_basicsr.restore.restorer import SMALLEST_TILE, _cuts, _is_out_of_memory

_ALIGN = 16  # of tiles and overlaps, whatever cells a network works in


class Tiles:
    """Restores whole images, or tiles where the option file or a lack of memory asks for them.

    Keys of ``val``: ``tile`` (largest side of a square that is restored in one piece; default: the whole image, and
    smaller ones only after memory ran out), ``tile_overlap`` (pixels that neighbouring tiles share; default: what the
    network's field of view asks for), ``multiple`` (images are padded by reflection to multiples of it; default: the
    network's ``window_size``, which BasicSR's SwinIR has. Networks that say nothing take any size).

    Attributes:
        used: Side of the tiles of the last image; None where it was restored whole.

    Raises:
        InputError: A number is too small.
    """

    def __init__(self, val: dict[str, Any]) -> None:
        self.side, self.overlap, self.multiple = val.get('tile'), val.get('tile_overlap'), val.get('multiple')
        self.used: int | None = None
        for key, value, least in (
            ('tile', self.side, SMALLEST_TILE),
            ('tile_overlap', self.overlap, 1),
            ('multiple', self.multiple, 1),
        ):
            if value is not None and value < least:
                raise InputError(f'option val:{key}: {value} is too small: choose at least {least} pixels')

    @torch.no_grad()
    def restore(self, net: nn.Module, images: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
        """``forward`` of B x C x H x W; ``net`` is the network behind it."""
        overlap = overlap_for(net) if self.overlap is None else -(-self.overlap // _ALIGN) * _ALIGN
        multiple: int = getattr(net, 'window_size', 1) if self.multiple is None else self.multiple
        side = self.side
        while True:
            self.used = None if side is None or images[0, 0].numel() <= side**2 else side
            try:
                if self.used is None:
                    return _padded(forward, images, multiple)
                return _in_tiles(lambda tile: _padded(forward, tile, multiple), images, self.used, overlap)
            except (RuntimeError, MemoryError) as error:
                side = min(side or max(images.shape[-2:]), max(images.shape[-2:])) // 2
                if not _is_out_of_memory(error) or side < SMALLEST_TILE:
                    raise
            get_root_logger().warning(f'Memory ran out: trying again with tiles of {side} pixels (val:tile sets them).')
            if images.is_cuda:
                torch.cuda.empty_cache()


def overlap_for(net: nn.Module) -> int:
    """Pixels that neighbouring tiles share so that no seam shows, as far as the network's field of view ends."""
    return overlap_of(net) if isinstance(net, AirNet) else traits_of(net).overlap


def _padded(forward: Callable[[Tensor], Tensor], images: Tensor, multiple: int) -> Tensor:
    height, width = images.shape[-2:]
    right, bottom = -width % multiple, -height % multiple
    if not (right or bottom):
        return forward(images)
    mode = 'reflect' if right < width and bottom < height else 'replicate'
    return forward(F.pad(images, (0, right, 0, bottom), mode))[..., :height, :width]


def _in_tiles(forward: Callable[[Tensor], Tensor], images: Tensor, side: int, overlap: int) -> Tensor:
    height, width = images.shape[-2:]
    overlap = min(overlap, side // 2 // _ALIGN * _ALIGN)
    out = torch.zeros_like(images)
    for row, row_weight in _cuts(height, max(side, side * side // width), overlap):
        for column, column_weight in _cuts(width, max(side, side * side // height), overlap):
            weight = torch.from_numpy(row_weight[:, None] * column_weight).to(images)
            out[..., row, column] += forward(images[..., row, column].contiguous()) * weight
    return out
