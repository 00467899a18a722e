"""AirNet: the degradation encoder (CBDE) and the degradation-guided restorer (DGRN) of the paper.

Section and equation numbers are those of "All-In-One Image Restoration for Unknown Corruption" (CVPR 2022). Where the
official release departs from the paper, this follows the release, whose checkpoints it loads, and says so.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from airnet_basicsr.network.ops import modulated_deform_conv2d
from airnet_basicsr.network.traits import Traits

SLOPE = 0.1  # of every LeakyReLU in the network
MADE_WITH = 'made_with.'  # names the buffers by which a file tells the options that no weight's shape shows
_TILE = 16384  # pixels that the SFT works on at once at inference: small maps stay in the caches
# Pixels that neighbouring tiles share, at least: see overlap_of. benchmarks/bench_restore.py measures the seams:
# docs/restore.md.
OVERLAP = 48


class Encoding(NamedTuple):
    """What the encoder says of a batch of degraded images."""

    z: Tensor
    """B x C x H x W, the degradation representation that guides the restorer (Sec. 3.2)."""
    embedding: Tensor
    """B x 4C, the pooled features before the MLP."""
    projection: Tensor
    """B x 4C, the MLP's output; of unit length it is the query or key of the contrastive loss."""


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """norm(conv(x)) in eval mode as one convolution."""
    statistics = norm.running_mean, norm.running_var, norm.eps
    weight, bias = fuse_conv_bn_weights(conv.weight, None, *statistics, norm.weight, norm.bias)
    return F.conv2d(x, weight, bias, conv.stride, conv.padding)


def pixel_blocks(x: Tensor, side: int) -> Tensor:
    """B x C x H x W as blocks of side x side pixels, B x C side^2 x H/side x W/side; the last row or column is repeated
    where a block would be incomplete."""
    if side == 1:
        return x
    missing = -x.shape[3] % side, -x.shape[2] % side
    blocks = F.pixel_unshuffle(F.pad(x, (0, missing[0], 0, missing[1]), mode='replicate'), side)
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    return blocks.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


class ResidualBlock(nn.Module):
    """conv3x3-BN-LeakyReLU-conv3x3-BN plus a conv1x1-BN shortcut; LeakyReLU after the sum."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.training or torch.is_grad_enabled():
            return F.leaky_relu(self.body(x) + self.shortcut(x), SLOPE)
        conv1, norm1, _, conv2, norm2 = self.body
        out = _folded(conv2, norm2, F.leaky_relu_(_folded(conv1, norm1, x), SLOPE))
        conv, norm = self.shortcut
        out += _folded(conv, norm, x)
        return F.leaky_relu_(out, SLOPE)


class DegradationEncoder(nn.Module):
    """Contrastive-Based Degradation Encoder (CBDE, Sec. 3.2).

    ``forward(x)`` gives an :class:`Encoding` of images x (B x 3 x H x W, values in [0, 1]). :meth:`represent` stops at
    z, which is all that restoring needs.
    """

    def __init__(self, num_in_ch: int = 3, num_feat: int = 64, unshuffle: int = 1) -> None:
        super().__init__()
        self.unshuffle = unshuffle
        channels = (num_in_ch * unshuffle**2, num_feat, 2 * num_feat, 4 * num_feat)
        self.blocks = nn.ModuleList(
            ResidualBlock(channels[i], channels[i + 1], stride=1 if i == 0 else 2) for i in range(3)
        )
        self.mlp = nn.Sequential(
            nn.Linear(4 * num_feat, 4 * num_feat),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Linear(4 * num_feat, 4 * num_feat),
        )

    def represent(self, x: Tensor) -> Tensor:
        """z of x: B x C x H x W, of each block of pixels where the network works on blocks."""
        return self.blocks[0](pixel_blocks(x, self.unshuffle))

    def forward(self, x: Tensor) -> Encoding:
        z = self.represent(x)
        embedding = self.blocks[2](self.blocks[1](z)).mean(dim=(2, 3))
        return Encoding(z, embedding, self.mlp(embedding))


class GuidedDeformConv(nn.Module):
    """3x3 modulated deformable convolution whose offsets and masks are read off (x, z) (Eq. 5 and 6)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        bound = (channels * 9) ** -0.5
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3).uniform_(-bound, bound))
        self.conv_offset_mask = nn.Conv2d(2 * channels, 27, 3, 1, 1)
        # Starts as an ordinary convolution: no offset, mask one half everywhere.
        nn.init.zeros_(self.conv_offset_mask.weight)
        nn.init.zeros_(self.conv_offset_mask.bias)

    @torch.no_grad()
    def start_dilated(self, dilation: int) -> None:
        """Set the untrained offsets so that the nine taps lie ``dilation`` pixels apart."""
        taps = [float(place) for y in (-1, 0, 1) for x in (-1, 0, 1) for place in (y, x)]
        self.conv_offset_mask.bias[:18] = (dilation - 1) * torch.tensor(taps)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        # The release's order: its three thirds o1, o2, m give offset = (o1, o2), which DCNv2 reads as y, x per tap.
        # Coordinates need float32, also under autocast: bfloat16 places a tap 5 pixels away up to 1/64 pixel wrong.
        with torch.autocast(x.device.type, enabled=False):
            # The two halves of the convolution apart: concat(x, z) is never built, nor kept for the backward.
            conv, channels = self.conv_offset_mask, x.shape[1]
            both = F.conv2d(x.to(conv.weight.dtype), conv.weight[:, :channels], conv.bias, padding=1)
            both += F.conv2d(z.to(conv.weight.dtype), conv.weight[:, channels:], padding=1)
            offset, mask = both.split((18, 9), 1)
        return modulated_deform_conv2d(x, offset, mask.sigmoid(), self.weight, padding=1)


class SpatialFeatureTransform(nn.Module):
    """x * gamma + beta, both read off z pixel by pixel (Eq. 8)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma, self.beta = (
            nn.Sequential(
                nn.Conv2d(channels, channels, 1, bias=False),
                nn.LeakyReLU(SLOPE, inplace=True),
                nn.Conv2d(channels, channels, 1, bias=False),
            )
            for _ in range(2)
        )

    def add_to_(self, out: Tensor, x: Tensor, z: Tensor) -> None:
        """``out += x * gamma + beta``."""
        if not out.is_contiguous(memory_format=torch.channels_last):
            out += torch.addcmul(self.beta(z), x, self.gamma(z))
            return
        # Products of matrices: torch's 1x1 convolution has a slow path for this memory format.
        pixels = [t.permute(0, 2, 3, 1).flatten(0, 2) for t in (out, x, z)]
        # Without gradients in tiles: whole maps of gamma and beta would cost more time in memory than in the products.
        # torch.compile, which would write the loop out, makes its own.
        whole = torch.is_grad_enabled() or torch.compiler.is_compiling()
        tiles = [pixels] if whole else zip(*(t.split(_TILE) for t in pixels), strict=True)
        for out_, x_, z_ in tiles:
            beta, gamma = (
                F.linear(F.leaky_relu_(F.linear(z_, part[0].weight.flatten(1)), SLOPE), part[2].weight.flatten(1))
                for part in (self.beta, self.gamma)
            )
            out_ += torch.addcmul(beta, x_, gamma)


class DegradationGuidedModule(nn.Module):
    """x + DCN(x, z) + SFT(x, z): DGM (Eq. 4). The ``x +`` is the release's; the paper leaves it out."""

    def __init__(self, channels: int, with_sft: bool, with_dcn: bool) -> None:
        super().__init__()
        self.dcn = GuidedDeformConv(channels) if with_dcn else nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.sft = SpatialFeatureTransform(channels) if with_sft else None

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        # In place: these sums are bound by memory, and no backward needs what they overwrite.
        out = self.dcn(x, z) if isinstance(self.dcn, GuidedDeformConv) else self.dcn(x)
        out += x
        if self.sft is not None:
            self.sft.add_to_(out, x, z)
        return out


class DegradationGuidedBlock(nn.Module):
    """Two DGMs, each followed by a convolution, with a residual connection: DGB."""

    def __init__(self, channels: int, with_sft: bool, with_dcn: bool) -> None:
        super().__init__()
        self.dgm1 = DegradationGuidedModule(channels, with_sft, with_dcn)
        self.conv1 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.dgm2 = DegradationGuidedModule(channels, with_sft, with_dcn)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        out = F.leaky_relu_(self.dgm1(x, z), SLOPE)
        out = F.leaky_relu_(self.conv1(out), SLOPE)
        out = F.leaky_relu_(self.dgm2(out, z), SLOPE)
        out = self.conv2(out)
        out += x
        return out


class DegradationGuidedGroup(nn.Module):
    """DGBs and a convolution, with a residual connection: DGG."""

    def __init__(self, channels: int, num_block: int, with_sft: bool, with_dcn: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(DegradationGuidedBlock(channels, with_sft, with_dcn) for _ in range(num_block))
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        out = x
        for block in self.blocks:
            out = block(out, z)
        out = self.conv(out)
        out += x
        return out


class DegradationGuidedRestorer(nn.Module):
    """Degradation-Guided Restoration Network (DGRN, Sec. 3.3). It has no residual connection over the whole image."""

    def __init__(
        self, num_in_ch: int, num_feat: int, num_group: int, num_block: int, with_sft: bool, with_dcn: bool
    ) -> None:
        super().__init__()
        self.head = nn.Conv2d(num_in_ch, num_feat, 3, 1, 1)
        self.groups = nn.ModuleList(
            DegradationGuidedGroup(num_feat, num_block, with_sft, with_dcn) for _ in range(num_group)
        )
        self.conv = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.tail = nn.Conv2d(num_feat, num_in_ch, 3, 1, 1)

    @torch.no_grad()
    def start_as_zero(self) -> None:
        """Set the tail so that it gives nothing: with a residual connection over the image, that is the identity."""
        nn.init.zeros_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)

    @torch.no_grad()
    def start_as_identity(self) -> None:
        """Set head, tail and the convolution before it so that the restored image is the degraded one.

        Without a residual connection over the image the network must otherwise first learn to copy its input.
        """
        channels = self.tail.out_channels
        nn.init.dirac_(self.head.weight[:channels])
        nn.init.zeros_(self.head.bias[:channels])
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)
        nn.init.dirac_(self.tail.weight)
        nn.init.zeros_(self.tail.bias)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        shallow = self.head(x)
        out = shallow
        for group in self.groups:
            out = group(out, z)
        return self.tail(self.conv(out) + shallow)


class AirNet(nn.Module):
    """All-In-One Image Restoration Network (paper Sec. 3, Fig. 2).

    The defaults are the paper's network: 7,610,377 parameters, of which the encoder has 1,319,936. The momentum key
    encoder and the queue belong to training (:class:`~airnet_basicsr.network.momentum_contrast.MomentumContrast`), not
    to the network.

    Args:
        num_in_ch: Channels of the image, in and out.
        num_feat: Channels C of the features and of z; the embedding has 4C.
        num_group: Degradation-guided groups.
        num_block: Blocks in each group.
        with_sft: False leaves the spatial feature transform out (Table 7, "w.o. SFT").
        with_dcn: False puts an ordinary 3x3 convolution in place of the deformable one (Table 7, "w.o. DCN").
        identity_init: An untrained network gives back its input, for training runs too short to learn that first. The
            release starts from PyTorch's random weights.
        dilated_init: Pixels between the taps with which the deformable convolutions start, in turn, before offsets are
            learnt: a network of few blocks then sees far around each pixel. The release starts with 1.
        unshuffle: The network works on blocks of unshuffle x unshuffle pixels as channels (pixel unshuffle, as FFDNet
            and BasicSR's RRDBNet do): for 2, a quarter of the positions and twice the field of view. 1 (the paper's),
            2, 4 or 8.
        image_residual: The restorer's output is added to the image. The paper and the release have no such connection.
    """

    def __init__(
        self,
        num_in_ch: int = 3,
        num_feat: int = 64,
        num_group: int = 5,
        num_block: int = 5,
        with_sft: bool = True,
        with_dcn: bool = True,
        identity_init: bool = False,
        dilated_init: Sequence[int] = (1,),
        unshuffle: int = 1,
        image_residual: bool = False,
    ) -> None:
        super().__init__()
        self.unshuffle, self.image_residual = unshuffle, image_residual
        channels = num_in_ch * unshuffle**2
        self.encoder = DegradationEncoder(num_in_ch, num_feat, unshuffle)
        self.restorer = DegradationGuidedRestorer(channels, num_feat, num_group, num_block, with_sft, with_dcn)
        # Neither shows in the shapes of the weights. A network of the paper has no such buffers.
        self.made_with = nn.Module()
        for name, value, default in (('unshuffle', unshuffle, 1), ('image_residual', int(image_residual), 0)):
            if value != default:
                self.made_with.register_buffer(name, torch.tensor(value))
        if identity_init:
            if image_residual:
                self.restorer.start_as_zero()
            else:
                self.restorer.start_as_identity()
        deformable = (module for module in self.restorer.modules() if isinstance(module, GuidedDeformConv))
        for module, dilation in zip(deformable, itertools.cycle(dilated_init), strict=False):
            if dilation != 1:
                module.start_dilated(dilation)

    @property
    def traits(self) -> Traits:
        """What running it on pictures of any size asks for."""
        # Features of some maps at once, offsets and masks; measured (docs/restore.md).
        memory = (36 * self.restorer.head.out_channels + 400) // self.unshuffle**2
        return Traits(None, multiple_of=self.unshuffle, bytes_per_pixel=memory, shared=overlap_of(self))

    def forward(self, x: Tensor, encode: bool = False, restore: bool = True) -> Tensor | Encoding | tuple:
        """Restore images, describe their degradation, or both from one pass of the encoder.

        Args:
            x: Degraded images, B x 3 x H x W, of any H and W; values in [0, 1] (noise may leave that range).
            encode: Also run the rest of the encoder, for training and for looking at embeddings.
            restore: False runs the encoder only (training's warm-up).

        Returns:
            The restored images (B x 3 x H x W, not clipped); with ``encode`` the pair (restored, :class:`Encoding`);
            with ``encode`` and without ``restore`` the :class:`Encoding` alone.
        """
        # The contrastive part stays in its own precision under autocast, so z does too.
        with torch.autocast(x.device.type, enabled=False):
            encoding = self.encoder(x) if encode else None
            z = self.encoder.represent(x) if encoding is None else encoding.z
        if not restore:
            assert encoding is not None, 'without encode and restore there is nothing to do'
            return encoding
        restored = self.restorer(pixel_blocks(x, self.unshuffle), z)
        if self.unshuffle > 1:
            restored = F.pixel_shuffle(restored, self.unshuffle)[..., : x.shape[2], : x.shape[3]]
        if self.image_residual:
            restored = x + restored
        return (restored, encoding) if encode else restored


def overlap_of(network: AirNet) -> int:
    """Pixels that neighbouring tiles share: more where the network looks further, as its resting offsets tell."""
    deformable = (module for module in network.modules() if isinstance(module, GuidedDeformConv))
    distance = sum(float(module.conv_offset_mask.bias[:18].detach().abs().max()) for module in deformable)
    if not math.isfinite(distance):  # damaged: what it gives is checked where it is used
        return network.unshuffle * OVERLAP
    # Five times as many, measured on a network of 32 features; what is flat and bright is judged from far around it.
    return network.unshuffle * (OVERLAP + 10 * math.ceil(distance / 2))
