"""PromptIR: a Restormer whose decoder is guided by learnt prompts, weighted by what the features say.

V. Potlapalli et al., "PromptIR: prompting for all-in-one blind image restoration", NeurIPS 2023. Names of tensors are
those of the authors' files (github.com/va1shn9v/PromptIR), whose code settles what the paper leaves open: the attention
heads of the blocks after a prompt, and the sizes of the prompts.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airnet_basicsr.network.traits import Traits

# Layers that the authors' network has and never uses: 215,296 of its parameters.
UNUSED = re.compile(r'(chnl_reduce|reduce_noise_channel_)\d\.')
_FFN_EXPANSION = 2.66


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each pixel of B x C x H x W."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TransposedAttention(nn.Module):
    """Attention between channels, of queries, keys and values from depthwise convolutions (MDTA)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_dwconv = nn.Conv2d(3 * channels, 3 * channels, 3, 1, 1, groups=3 * channels, bias=False)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # B x 3 x heads x channels of each x pixels
        qkv = self.qkv_dwconv(self.qkv(x)).flatten(2).unflatten(1, (3, self.heads, -1))
        query, key, value = qkv.unbind(1)
        attention = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1) * self.temperature
        return self.project_out((attention.softmax(-1) @ value).flatten(1, 2).unflatten(2, x.shape[-2:]))


class GatedFeedForward(nn.Module):
    """Depthwise convolution with one half of the channels, through GELU, as the gate of the other (GDFN)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = int(channels * _FFN_EXPANSION)
        self.project_in = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, 1, 1, groups=2 * hidden, bias=False)
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, out = self.dwconv(self.project_in(x)).chunk(2, 1)
        return self.project_out(F.gelu(gate) * out)


class TransformerBlock(nn.Module):
    """Attention between channels and a gated feed-forward part, each residual and normalized before."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.attn = TransposedAttention(channels, heads)
        self.ffn = GatedFeedForward(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class PromptGenerator(nn.Module):
    """A prompt as large as the features: learnt ones, weighted by the features' mean."""

    def __init__(self, channels: int, size: int, num_feat: int, length: int = 5) -> None:
        super().__init__()
        self.prompt_param = nn.Parameter(torch.rand(1, length, channels, size, size))
        self.linear_layer = nn.Linear(num_feat, length)
        self.conv3x3 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.linear_layer(x.mean((-2, -1))).softmax(1)
        prompt = torch.einsum('bl,lchw->bchw', weights, self.prompt_param[0])
        return self.conv3x3(F.interpolate(prompt, x.shape[-2:], mode='bilinear'))


class _Resize(nn.Module):
    """Half the size with twice the channels, or twice the size with half the channels."""

    def __init__(self, channels: int, up: bool) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, 2 * channels if up else channels // 2, 3, 1, 1, bias=False)
        self.body = nn.Sequential(conv, nn.PixelShuffle(2) if up else nn.PixelUnshuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class PromptIR(nn.Module):
    """The defaults are the authors' network: 35,376,967 parameters, and 215,296 more in layers that it never uses.

    ``forward(x)`` gives B x C x H x W for B x C x H x W, values in [0, 1], not clipped; any H and W. Attention and
    prompts look at the whole picture.

    Args:
        inp_channels: Channels of the image, in and out.
        dim: Channels of the features at full size; doubled at each of the three steps down.
        num_blocks: Blocks at each of the four sizes, the same on the way down and up.
        num_refinement_blocks: Blocks after the way up.
        heads: Attention heads at each of the four sizes.
        prompt_dims: Channels of the prompts at a half, a quarter and an eighth of the size.
        prompt_sizes: Sides of the learnt prompts at these sizes, in pixels.
    """

    def __init__(
        self,
        inp_channels: int = 3,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        prompt_dims: Sequence[int] = (64, 128, 320),
        prompt_sizes: Sequence[int] = (64, 32, 16),
    ) -> None:
        super().__init__()
        if any(dim * 2**level % count for level, count in enumerate(heads)):
            raise ValueError(f'{dim} channels, doubled at each size, cannot be shared among {list(heads)} heads')

        def blocks(channels: int, level: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(TransformerBlock(channels, heads[level]) for _ in range(count)))

        self.patch_embed = nn.ModuleDict({'proj': nn.Conv2d(inp_channels, dim, 3, 1, 1, bias=False)})
        self.encoder_level1 = blocks(dim, 0, num_blocks[0])
        self.down1_2 = _Resize(dim, up=False)
        self.encoder_level2 = blocks(2 * dim, 1, num_blocks[1])
        self.down2_3 = _Resize(2 * dim, up=False)
        self.encoder_level3 = blocks(4 * dim, 2, num_blocks[2])
        self.down3_4 = _Resize(4 * dim, up=False)
        self.latent = blocks(8 * dim, 3, num_blocks[3])

        # What a prompt joins, and how many channels are left of both.
        joined = {3: (8 * dim, 4 * dim), 2: (4 * dim, 4 * dim), 1: (2 * dim, 2 * dim)}
        for level, (features, kept) in joined.items():
            both = features + prompt_dims[level - 1]
            if both % heads[2]:
                raise ValueError(f'{both} channels, with a prompt, cannot be shared among {heads[2]} heads')
            prompt = PromptGenerator(prompt_dims[level - 1], prompt_sizes[level - 1], features)
            self.add_module(f'prompt{level}', prompt)
            self.add_module(f'noise_level{level}', TransformerBlock(both, heads[2]))
            self.add_module(f'reduce_noise_level{level}', nn.Conv2d(both, kept, 1, bias=False))

        self.up4_3 = _Resize(4 * dim, up=True)
        self.reduce_chan_level3 = nn.Conv2d(6 * dim, 4 * dim, 1, bias=False)
        self.decoder_level3 = blocks(4 * dim, 2, num_blocks[2])
        self.up3_2 = _Resize(4 * dim, up=True)
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1, bias=False)
        self.decoder_level2 = blocks(2 * dim, 1, num_blocks[1])
        self.up2_1 = _Resize(2 * dim, up=True)
        self.decoder_level1 = blocks(2 * dim, 0, num_blocks[0])
        self.refinement = blocks(2 * dim, 0, num_refinement_blocks)
        self.output = nn.Conv2d(2 * dim, inp_channels, 3, 1, 1, bias=False)
        self.traits = Traits(reach=None, multiple_of=8, bytes_per_pixel=100 * dim)

    def _prompted(self, x: Tensor, level: int) -> Tensor:
        prompt, block, reduce = (
            self.get_submodule(f'{name}{level}') for name in ('prompt', 'noise_level', 'reduce_noise_level')
        )
        return reduce(block(torch.cat((x, prompt(x)), 1)))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        padded = F.pad(x, (0, -width % 8, 0, -height % 8), mode='replicate')
        level1 = self.encoder_level1(self.patch_embed['proj'](padded))
        level2 = self.encoder_level2(self.down1_2(level1))
        level3 = self.encoder_level3(self.down2_3(level2))
        out = self._prompted(self.latent(self.down3_4(level3)), 3)
        out = self.reduce_chan_level3(torch.cat((self.up4_3(out), level3), 1))
        out = self._prompted(self.decoder_level3(out), 2)
        out = self.reduce_chan_level2(torch.cat((self.up3_2(out), level2), 1))
        out = self._prompted(self.decoder_level2(out), 1)
        out = self.decoder_level1(torch.cat((self.up2_1(out), level1), 1))
        return (self.output(self.refinement(out)) + padded)[..., :height, :width]


def network_options(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The arguments of :class:`PromptIR` that fit ``state``; None where it is another network's."""
    if not {'patch_embed.proj.weight', 'prompt3.prompt_param', 'output.weight'} <= set(state):
        return None

    def count(part: str) -> int:
        return len({match[0] for name in state if (match := re.match(rf'{part}\.\d+\.', name))})

    parts = ('encoder_level1', 'encoder_level2', 'encoder_level3', 'latent')
    prompts = [state[f'prompt{level}.prompt_param'].shape for level in (1, 2, 3)]
    return {
        'inp_channels': state['patch_embed.proj.weight'].shape[1],
        'dim': state['patch_embed.proj.weight'].shape[0],
        'num_blocks': [count(part) for part in parts],
        'num_refinement_blocks': count('refinement'),
        'heads': [len(state[f'{part}.0.attn.temperature']) for part in parts],
        'prompt_dims': [shape[2] for shape in prompts],
        'prompt_sizes': [shape[3] for shape in prompts],
    }
