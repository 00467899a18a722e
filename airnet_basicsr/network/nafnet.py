"""NAFNet: a U-Net without nonlinear activations.

L. Chen et al., "Simple baselines for image restoration", ECCV 2022. Names of tensors are those of the authors' files
(github.com/megvii-research/NAFNet).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airnet_basicsr.network.traits import Traits


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each pixel of B x C x H x W."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, 1e-6).permute(0, 3, 1, 2)


def _gate(x: Tensor) -> Tensor:
    """One half of the channels times the other."""
    first, second = x.chunk(2, 1)
    return first * second


class NAFBlock(nn.Module):
    """Depthwise convolution with gate and channel attention, then a gated feed-forward part; both are residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.conv1 = nn.Conv2d(channels, wide, 1)
        self.conv2 = nn.Conv2d(wide, wide, 3, 1, 1, groups=wide)
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.conv4 = nn.Conv2d(channels, wide, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        # Zero: each block starts as the identity.
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        out = _gate(self.conv2(self.conv1(self.norm1(x))))
        x = x + self.beta * self.conv3(out * self.sca(out))
        return x + self.gamma * self.conv5(_gate(self.conv4(self.norm2(x))))


class NAFNet(nn.Module):
    """The defaults are the authors' network of width 32 for SIDD: 29.16 million parameters.

    For GoPro they take ``enc_blk_nums: [1, 1, 1, 28], middle_blk_num: 1, dec_blk_nums: [1, 1, 1, 1]``: 17.11 million
    parameters at width 32, 67.89 million at width 64.

    ``forward(x)`` gives B x C x H x W for B x C x H x W, values in [0, 1], not clipped; any H and W. Its channel
    attention averages over the whole picture.

    Args:
        img_channel: Channels of the image, in and out.
        width: Channels of the features at full size; doubled at each step down.
        middle_blk_num: Blocks at the smallest size.
        enc_blk_nums: Blocks before each step down.
        dec_blk_nums: Blocks after each step up, as many steps as down.
    """

    def __init__(
        self,
        img_channel: int = 3,
        width: int = 32,
        middle_blk_num: int = 12,
        enc_blk_nums: Sequence[int] = (2, 2, 4, 8),
        dec_blk_nums: Sequence[int] = (2, 2, 2, 2),
    ) -> None:
        super().__init__()
        if len(enc_blk_nums) != len(dec_blk_nums):
            raise ValueError(f'{len(enc_blk_nums)} steps down (enc_blk_nums), {len(dec_blk_nums)} up (dec_blk_nums)')

        def blocks(channels: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(NAFBlock(channels) for _ in range(count)))

        widths = [width << step for step in range(len(enc_blk_nums))]
        self.intro = nn.Conv2d(img_channel, width, 3, 1, 1)
        self.encoders = nn.ModuleList(map(blocks, widths, enc_blk_nums))
        self.downs = nn.ModuleList(nn.Conv2d(channels, 2 * channels, 2, 2) for channels in widths)
        self.middle_blks = blocks(width << len(widths), middle_blk_num)
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * channels, 4 * channels, 1, bias=False), nn.PixelShuffle(2))
            for channels in reversed(widths)
        )
        self.decoders = nn.ModuleList(map(blocks, reversed(widths), dec_blk_nums))
        self.ending = nn.Conv2d(width, img_channel, 3, 1, 1)
        self.traits = Traits(reach=None, multiple_of=1 << len(widths), bytes_per_pixel=50 * width)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        multiple = self.traits.multiple_of
        # With zeros, as the authors do.
        padded = F.pad(x, (0, -width % multiple, 0, -height % multiple))
        out = self.intro(padded)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            out = encoder(out)
            skips.append(out)
            out = down(out)
        out = self.middle_blks(out)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            out = decoder(up(out) + skips.pop())
        return (self.ending(out) + padded)[..., :height, :width]


def network_options(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The arguments of :class:`NAFNet` that fit ``state``; None where it is another network's."""
    if not {'intro.weight', 'ending.weight'} <= set(state) or not any(name.startswith('downs.') for name in state):
        return None

    def count(pattern: str) -> int:
        return len({match[0] for name in state if (match := re.match(pattern, name))})

    steps = count(r'downs\.\d+\.')
    return {
        'img_channel': state['intro.weight'].shape[1],
        'width': state['intro.weight'].shape[0],
        'middle_blk_num': count(r'middle_blks\.\d+\.'),
        'enc_blk_nums': [count(rf'encoders\.{step}\.\d+\.') for step in range(steps)],
        'dec_blk_nums': [count(rf'decoders\.{step}\.\d+\.') for step in range(steps)],
    }
