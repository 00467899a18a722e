"""MPRNet: three stages, each restoring the picture: of its quarters, of its halves, and whole.

S. W. Zamir et al., "Multi-stage progressive image restoration", CVPR 2021. Names of tensors are those of the authors'
files (github.com/swz30/MPRNet), whose code settles the layers within a block.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airnet_basicsr.network.traits import Traits

Pyramid = list[Tensor]  # features at full, half and quarter size


def _conv(in_channels: int, out_channels: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, size, 1, size // 2, bias=False)


class ChannelAttention(nn.Module):
    """Channels weighted by what their means over the picture say."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        inner = channels // reduction
        self.conv_du = nn.Sequential(_conv(channels, inner, 1), nn.ReLU(), _conv(inner, channels, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv_du(x.mean((-2, -1), keepdim=True))


class AttentionBlock(nn.Module):
    """Two convolutions and channel attention, residual (CAB)."""

    def __init__(self, channels: int, reduction: int, activation: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(channels, channels), activation, _conv(channels, channels))
        self.CA = ChannelAttention(channels, reduction)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.CA(self.body(x))


class SupervisedAttention(nn.Module):
    """Gives a stage's restored picture, and features that it weights for the next stage (SAM)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = _conv(channels, channels, 1), _conv(channels, 3, 1), _conv(3, channels, 1)

    def forward(self, x: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        restored = self.conv2(x) + picture
        return self.conv1(x) * self.conv3(restored).sigmoid() + x, restored


class _Resize(nn.Module):
    """Bilinear, by ``scale``, then a 1x1 convolution. The authors name it ``down`` or ``up``."""

    def __init__(self, in_channels: int, out_channels: int, scale: float) -> None:
        super().__init__()
        resize = nn.Upsample(scale_factor=scale, mode='bilinear', align_corners=False)
        self.add_module('down' if scale < 1 else 'up', nn.Sequential(resize, _conv(in_channels, out_channels, 1)))

    def forward(self, x: Tensor) -> Tensor:
        (resize,) = self.children()
        return resize(x)


class MPRNet(nn.Module):
    """The defaults are the authors' network for rain: 3,637,249 parameters.

    For noise they take ``n_feat: 80, scale_unetfeats: 48, scale_orsnetfeats: 32`` (15.74 million parameters), for blur
    96, 48 and 32 (20.13 million).

    Args:
        n_feat: Channels of the features at full size.
        scale_unetfeats: Channels more at each of the two steps down.
        scale_orsnetfeats: Channels more in the third stage.
        num_cab: Attention blocks in each of the third stage's three parts.
        reduction: Of the channels within the channel attention.
    """

    def __init__(
        self,
        n_feat: int = 40,
        scale_unetfeats: int = 20,
        scale_orsnetfeats: int = 16,
        num_cab: int = 8,
        reduction: int = 4,
    ) -> None:
        super().__init__()
        activation = nn.PReLU()  # one slope for the whole network, as the authors have it

        def blocks(channels: int, count: int) -> list[nn.Module]:
            return [AttentionBlock(channels, reduction, activation) for _ in range(count)]

        widths = [n_feat + i * scale_unetfeats for i in range(3)]

        def encoder(fused: bool) -> nn.ModuleDict:
            parts: dict[str, nn.Module] = {
                f'encoder_level{i + 1}': nn.Sequential(*blocks(width, 2)) for i, width in enumerate(widths)
            }
            parts |= {f'down{i + 1}{i + 2}': _Resize(widths[i], widths[i + 1], 0.5) for i in range(2)}
            if fused:
                parts |= {
                    f'csff_{of}{i + 1}': _conv(widths[i], widths[i], 1) for of in ('enc', 'dec') for i in range(3)
                }
            return nn.ModuleDict(parts)

        def decoder() -> nn.ModuleDict:
            parts: dict[str, nn.Module] = {
                f'decoder_level{i + 1}': nn.Sequential(*blocks(width, 2)) for i, width in enumerate(widths)
            }
            parts |= {f'skip_attn{i + 1}': blocks(widths[i], 1)[0] for i in range(2)}
            parts |= {f'up{i + 2}{i + 1}': _Resize(widths[i + 1], widths[i], 2) for i in range(2)}
            return nn.ModuleDict(parts)

        self.shallow_feat1, self.shallow_feat2, self.shallow_feat3 = (
            nn.Sequential(_conv(3, n_feat), *blocks(n_feat, 1)) for _ in range(3)
        )
        self.stage1_encoder, self.stage1_decoder = encoder(fused=False), decoder()
        self.stage2_encoder, self.stage2_decoder = encoder(fused=True), decoder()

        wide = n_feat + scale_orsnetfeats
        whole: dict[str, nn.Module] = {}
        for i in range(3):
            body = nn.Sequential(*blocks(wide, num_cab), _conv(wide, wide))
            whole[f'orb{i + 1}'] = nn.ModuleDict({'body': body})
            for of in ('enc', 'dec'):
                whole[f'conv_{of}{i + 1}'] = _conv(n_feat, wide, 1)
                ups = [_Resize(widths[step], widths[step - 1], 2) for step in range(i, 0, -1)]
                if ups:
                    whole[f'up_{of}{i}'] = ups[0] if len(ups) == 1 else nn.Sequential(*ups)
        self.stage3_orsnet = nn.ModuleDict(whole)
        self.sam12, self.sam23 = SupervisedAttention(n_feat), SupervisedAttention(n_feat)
        self.concat12, self.concat23 = _conv(2 * n_feat, n_feat), _conv(2 * n_feat, wide)
        self.tail = _conv(wide, 3)
        self.traits = Traits(reach=None, multiple_of=8, bytes_per_pixel=120 * n_feat)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Restore ``x``, B x 3 x H x W with values in [0, 1], of any H and W.

        Returns:
            B x 3 x H x W, not clipped. In training the list of what all stages give, the last stage's first.
        """
        height, width = x.shape[-2:]
        picture = F.pad(x, (0, -width % 8, 0, -height % 8), mode='replicate')

        halves = picture.chunk(2, 2)
        quarters = [half.chunk(2, 3) for half in halves]
        encoded = [[_encode(self.stage1_encoder, self.shallow_feat1(part)) for part in row] for row in quarters]
        rows = [[torch.cat(level, 3) for level in zip(*row, strict=True)] for row in encoded]
        decoded = [_decode(self.stage1_decoder, row) for row in rows]
        passed, first = zip(*(self.sam12(row[0], half) for row, half in zip(decoded, halves, strict=True)), strict=True)

        encoded_halves = [
            _encode(self.stage2_encoder, self.concat12(torch.cat((self.shallow_feat2(half), features), 1)), before)
            for half, features, before in zip(halves, passed, zip(rows, decoded, strict=True), strict=True)
        ]
        encoded_whole = [torch.cat(level, 2) for level in zip(*encoded_halves, strict=True)]
        decoded_whole = _decode(self.stage2_decoder, encoded_whole)
        features, second = self.sam23(decoded_whole[0], picture)

        out = self.concat23(torch.cat((self.shallow_feat3(picture), features), 1))
        parts = self.stage3_orsnet
        for i in range(3):
            out = out + parts.get_submodule(f'orb{i + 1}.body')(out)
            for of, pyramid in (('enc', encoded_whole), ('dec', decoded_whole)):
                level = parts[f'up_{of}{i}'](pyramid[i]) if i else pyramid[0]
                out = out + parts[f'conv_{of}{i + 1}'](level)
        stages = [self.tail(out) + picture, second, torch.cat(first, 2)]
        stages = [stage[..., :height, :width] for stage in stages]
        return stages if self.training else stages[0]


def _encode(parts: nn.ModuleDict, x: Tensor, before: tuple[Pyramid, Pyramid] | None = None) -> Pyramid:
    """Features at three sizes; ``before`` are the encoder's and the decoder's of the stage before, joined to them."""
    pyramid = []
    for i in range(3):
        x = parts[f'encoder_level{i + 1}'](parts[f'down{i}{i + 1}'](x) if i else x)
        if before:
            x = x + parts[f'csff_enc{i + 1}'](before[0][i]) + parts[f'csff_dec{i + 1}'](before[1][i])
        pyramid.append(x)
    return pyramid


def _decode(parts: nn.ModuleDict, pyramid: Pyramid) -> Pyramid:
    out = [parts['decoder_level3'](pyramid[2])]
    for i in (1, 0):
        x = parts[f'up{i + 2}{i + 1}'](out[0]) + parts[f'skip_attn{i + 1}'](pyramid[i])
        out.insert(0, parts[f'decoder_level{i + 1}'](x))
    return out


def network_options(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The arguments of :class:`MPRNet` that fit ``state``; None where it is another network's."""
    if not {'shallow_feat1.0.weight', 'stage1_encoder.down12.down.1.weight', 'tail.weight'} <= set(state):
        return None
    n_feat = state['shallow_feat1.0.weight'].shape[0]
    blocks = {match[0] for name in state if (match := re.match(r'stage3_orsnet\.orb1\.body\.\d+\.CA', name))}
    return {
        'n_feat': n_feat,
        'scale_unetfeats': state['stage1_encoder.down12.down.1.weight'].shape[0] - n_feat,
        'scale_orsnetfeats': state['tail.weight'].shape[1] - n_feat,
        'num_cab': len(blocks),
        'reduction': n_feat // state['shallow_feat1.1.CA.conv_du.0.weight'].shape[0],
    }
