"""Testing images that are too large to be restored in one piece, or of a size that the network does not take."""

import math
from collections.abc import Callable
from typing import Any

import torch
from basicsr.archs.rrdbnet_arch import RRDBNet
from basicsr.utils import get_root_logger
from torch import Tensor, nn
from torch.nn import functional as F

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.traits import traits_of
from airnet_basicsr.restore.tiles import SMALLEST_TILE, Tiler, is_out_of_memory


class Tiles:
    """Restores whole images, or tiles where the option file or a lack of memory asks for them.

    Keys of ``val``: ``tile`` (largest side of a square that is restored in one piece; default: the whole image, and
    smaller ones only after memory ran out), ``tile_overlap`` (pixels that neighbouring tiles share; default: what the
    network's field of view asks for), ``multiple`` (images are padded by reflection to multiples of it; default: see
    :func:`multiple_taken`).

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
        """``forward`` of B x C x H x W; ``net`` is the network behind it.

        Raises:
            InputError: Memory does not suffice for the smallest tile.
        """
        overlap = traits_of(net).overlap if self.overlap is None else self.overlap
        multiple = multiple_taken(net) if self.multiple is None else self.multiple
        out = torch.empty_like(images)

        def part(rows: slice, columns: slice) -> Tensor:
            return images[..., rows, columns].contiguous()

        def keep(rows: slice, band: Tensor) -> None:
            out[..., rows, :] = band

        tiler = Tiler(lambda tile: _padded(forward, tile, multiple), overlap, self.side, _warn)
        tiler((images.shape[2], images.shape[3]), part, keep)
        self.used = tiler.used
        return out


def multiple_taken(net: nn.Module) -> int:
    """Height and width must be multiples of it: of the windows of SwinIR and its kind, of what RRDBNet unshuffles."""
    windows = (getattr(module, 'window_size', 1) for module in net.modules())
    sides = [side for window in windows for side in (window if isinstance(window, list | tuple) else [window])]
    if isinstance(net, RRDBNet) and net.scale == 1:
        sides.append(4)
    return math.lcm(*(side for side in sides if isinstance(side, int) and side > 0))  # 0: no windows


def _warn(side: int) -> None:
    get_root_logger().warning(f'Memory ran out: trying again with tiles of {side} pixels (val:tile sets them).')


def _padded(forward: Callable[[Tensor], Tensor], images: Tensor, multiple: int) -> Tensor:
    height, width = images.shape[-2:]
    right, bottom = -width % multiple, -height % multiple
    if right or bottom:
        images = F.pad(images, (0, right, 0, bottom), 'reflect' if right < width and bottom < height else 'replicate')
    try:
        return forward(images)[..., :height, :width]
    except (RuntimeError, AssertionError, ValueError) as error:
        if not is_out_of_memory(error) and any(side % 64 for side in images.shape[-2:]):
            get_root_logger().error(
                f'The network failed on an image of {images.shape[-2]} x {images.shape[-1]} pixels. If it takes '
                'multiples of a number only, name that: val:multiple pads images to it.'
            )
        raise
