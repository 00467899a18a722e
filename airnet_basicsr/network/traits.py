"""What a program must know of a network to run it on pictures of any size."""

import math
from typing import NamedTuple

import torch
from torch import nn


class Traits(NamedTuple):
    """A network has them as its attribute ``traits``."""

    reach: int | None
    """Pixels on each side of a pixel that its restored value depends on; None: the whole picture."""
    multiple_of: int = 1
    """The network works in cells of so many pixels a side: a piece of a picture must start at a multiple."""
    wants_sigma: bool = False
    """Whether ``forward`` takes ``sigma``, the standard deviation of the noise on the scale 0 to 255: a number, or B of
    them, one for each image; nan where it is not known."""
    bytes_per_pixel: int = 4000
    """Working memory at inference in float32, for each pixel of the picture."""
    shared: int | None = None
    """Pixels that neighbouring tiles must share where that was measured; None: what follows from the reach."""

    @property
    def overlap(self) -> int:
        """Pixels that neighbouring tiles share, a multiple of 16; no seam shows where the reach is finite."""
        if self.shared is not None:
            return self.shared
        # Tiles are blended over the middle half of what they share.
        return 64 if self.reach is None else 16 * math.ceil(4 * self.reach / 16)


def traits_of(network: nn.Module) -> Traits:
    """Those of ``network``; of one that says nothing, that it may look at the whole picture."""
    return getattr(network, 'traits', Traits(reach=None))


def to_channels_last(network: nn.Module) -> nn.Module:
    """``network``, its kernels in this format. ``Module.to`` refuses PromptIR's prompts, which have five axes."""
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=torch.channels_last)
    return network
