"""A network over images of any size: in one piece, or in tiles that overlap where memory asks for them."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.airnet import OVERLAP
from airnet_basicsr.network.ops.memory import release_freed

SMALLEST_TILE = 2 * OVERLAP
# Tiles begin at multiples of this: a network that works in cells of pixels (Traits.multiple_of) finds the same in each.
_ALIGN = 16
# As PyTorch, cuBLAS and cuDNN, ONNX Runtime, the C++ library and (the last) oneDNN say it.
_OUT_OF_MEMORY = (
    *('out of memory', "can't allocate memory", 'not enough memory', 'failed to allocate', 'bad_alloc'),
    *('alloc_failed', 'could not create a primitive'),
)


class Tiler:
    """Applies a network to images that are larger than what fits into memory.

    Args:
        network: Gives B x C x h x w for tiles of B x C x h x w.
        overlap: Pixels that neighbouring tiles share.
        side: Tiles have at most side x side pixels, and an image that has no more is done whole. None: every image is,
            unless memory runs out.
        retrying: Called with the side of the smaller tiles that are tried when memory ran out.

    Attributes:
        used: Side of the tiles of the last image; None where it was done whole.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        overlap: int,
        side: int | None = None,
        retrying: Callable[[int], None] = lambda side: None,
    ) -> None:
        self.network, self.overlap, self.side, self.retrying = network, overlap, side, retrying
        self.used: int | None = None

    def __call__(
        self,
        size: tuple[int, int],
        part: Callable[[slice, slice], Tensor],
        keep: Callable[[slice, Tensor], None],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Restore an image of ``size`` (height, width).

        Args:
            size: Height and width.
            part: Gives rows and columns of the image, B x C x h x w.
            keep: Takes finished rows, B x C x h x W, from top to bottom; again from the top where memory ran out.
            progress: Called with the tiles done so far and in all, after each tile.

        Raises:
            InputError: Memory does not suffice for the smallest tile.
        """
        largest = max(size)
        side = largest if self.side is None else self.side
        while True:
            self.used = None if size[0] * size[1] <= side * side else side
            try:
                for rows, band in self._bands(size, side, part, progress):
                    keep(rows, band)
                return
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            side = min(side, largest)
            if side <= SMALLEST_TILE:
                raise InputError(f'memory does not suffice, not even for tiles of {side} pixels')
            side = max(SMALLEST_TILE, side // 2)
            self.retrying(side)
            release_freed()
            torch.cuda.empty_cache()  # does nothing where no GPU is in use

    def _bands(
        self,
        size: tuple[int, int],
        side: int,
        part: Callable[[slice, slice], Tensor],
        progress: Callable[[int, int], None] | None,
    ) -> Iterator[tuple[slice, Tensor]]:
        """Row after row of tiles, so that never more than a band of them is held."""
        height, width = size
        step = 2 * _ALIGN  # half of the overlap lies on each side of a cut
        overlap = min(-(-self.overlap // step), side // 2 // step) * step
        # Where one side is short, the other may be longer than a tile's: fewer seams for the same memory.
        rows = list(_cuts(height, max(side, side * side // width), overlap))
        columns = list(_cuts(width, max(side, side * side // height), overlap))
        carried = None
        for i, (row, row_weight) in enumerate(rows):
            band = None
            for j, (column, column_weight) in enumerate(columns):
                restored = self.network(part(row, column))
                if band is None:
                    band = restored.new_zeros(*restored.shape[:3], width)
                band[..., column] += restored * torch.from_numpy(column_weight).to(band)
                if progress:
                    progress(i * len(columns) + j + 1, len(rows) * len(columns))
            assert band is not None  # there is at least one column
            band *= torch.from_numpy(row_weight).to(band)[:, None]
            if carried is not None:
                band[..., : carried.shape[2], :] += carried
            done = rows[i + 1][0].start - row.start if i + 1 < len(rows) else band.shape[2]
            yield slice(row.start, row.start + done), band[..., :done, :]
            carried = band[..., done:, :].clone()


def _cuts(length: int, side: int, overlap: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Cut ``length`` pixels into equal pieces that overlap: where each lies, and the weights by which they add to 1."""
    count = 1 if length <= side else math.ceil((length - overlap) / (side - overlap))
    between = [_ALIGN * round((overlap / 2 + i * (length - overlap) / count) / _ALIGN) for i in range(1, count)]

    def rise(at: np.ndarray, edge: int) -> np.ndarray:
        # Over the middle half of the overlap: what is nearer to a tile's end knows too little of its surroundings.
        return np.clip((at + 0.5 - edge) / (overlap / 2) + 0.5, 0, 1)

    for i in range(count):
        start = between[i - 1] - overlap // 2 if i else 0
        stop = between[i] + overlap // 2 if i < count - 1 else length
        at = np.arange(start, stop)
        weights = (rise(at, between[i - 1]) if i else 1) * (1 - rise(at, between[i]) if i < count - 1 else 1)
        yield slice(start, stop), np.broadcast_to(weights, at.shape).astype(np.float32)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is one of the many ways to say that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error).lower() for words in _OUT_OF_MEMORY)
