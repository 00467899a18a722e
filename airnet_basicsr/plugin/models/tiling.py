"""Testing images that are too large to be restored in one piece."""

from collections.abc import Callable
from typing import Any

import torch
from basicsr.utils import get_root_logger
from torch import Tensor, nn

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.airnet import AirNet, overlap_of
from airnet_basicsr.network.traits import traits_of
from airnet_basicsr.restore.restorer import SMALLEST_TILE, _cuts, _is_out_of_memory


class Tiles:
    """Restores whole images, or tiles where the option file or a lack of memory asks for them.

    Keys of ``val``: ``tile`` (largest side of a square that is restored in one piece; default: the whole image, and
    smaller ones only after memory ran out), ``tile_overlap`` (pixels that neighbouring tiles share; default: what the
    network's field of view asks for).

    Attributes:
        used: Side of the tiles of the last image; None where it was restored whole.

    Raises:
        InputError: The tile is too small.
    """

    def __init__(self, val: dict[str, Any]) -> None:
        self.side, self.overlap = val.get('tile'), val.get('tile_overlap')
        self.used: int | None = None
        if self.side is not None and self.side < SMALLEST_TILE:
            raise InputError(f'option val:tile: {self.side} is too small: choose at least {SMALLEST_TILE} pixels')

    @torch.no_grad()
    def restore(self, net: nn.Module, images: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
        """``forward`` of B x C x H x W; ``net`` is the network behind it."""
        overlap = _overlap_of(net) if self.overlap is None else self.overlap
        side = self.side
        while True:
            self.used = None if side is None or images[0, 0].numel() <= side**2 else side
            try:
                if self.used is None:
                    return forward(images)
                return _in_tiles(forward, images, self.used, overlap)
            except (RuntimeError, MemoryError) as error:
                side = min(side or max(images.shape[-2:]), max(images.shape[-2:])) // 2
                if not _is_out_of_memory(error) or side < SMALLEST_TILE:
                    raise
            get_root_logger().warning(f'Memory ran out: trying again with tiles of {side} pixels (val:tile sets them).')
            if images.is_cuda:
                torch.cuda.empty_cache()


def _overlap_of(net: nn.Module) -> int:
    """Pixels that tiles share."""
    return overlap_of(net) if isinstance(net, AirNet) else traits_of(net).overlap


def _in_tiles(forward: Callable[[Tensor], Tensor], images: Tensor, side: int, overlap: int) -> Tensor:
    height, width = images.shape[-2:]
    overlap = min(overlap, side // 2) // 16 * 16  # tiles begin at multiples of 8, as the restorer's
    out = torch.zeros_like(images)
    for row, row_weight in _cuts(height, max(side, side * side // width), overlap):
        for column, column_weight in _cuts(width, max(side, side * side // height), overlap):
            weight = torch.from_numpy(row_weight[:, None] * column_weight).to(images)
            out[..., row, column] += forward(images[..., row, column].contiguous()) * weight
    return out
