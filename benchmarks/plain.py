"""The network as the official release computes it: what the benchmarks compare ours with.

torchvision's operator, NCHW, each factor of z computed where it is used, the whole encoder also at inference, nothing
folded or fused. It takes its parameters from our network, so that the outputs can be compared too.
"""

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from airnet_basicsr.network.airnet import SLOPE, AirNet


def _act(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


def _block(block: nn.Module, x: Tensor) -> Tensor:
    """Residual block of the encoder; BatchNorm in the mode that the network is in."""
    conv1, norm1, _, conv2, norm2 = block.body
    body = norm2(conv2(_act(norm1(conv1(x)))))
    conv, norm = block.shortcut
    return _act(body + norm(conv(x)))


def _guided(module: nn.Module, x: Tensor, z: Tensor) -> Tensor:
    offset, mask = module.dcn.conv_offset_mask(torch.cat((x, z), 1)).split((18, 9), 1)
    warped = torchvision.ops.deform_conv2d(x, offset, module.dcn.weight, padding=1, mask=mask.sigmoid())
    gamma, beta = (part[2](_act(part[0](z))) for part in (module.sft.gamma, module.sft.beta))
    return x + warped + (x * gamma + beta)


class PlainAirNet(nn.Module):
    """``forward(x)``: images B x 3 x H x W, restored, and the encoder's projection (B x 256)."""

    def __init__(self, net: AirNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        encoder, restorer = self.net.encoder, self.net.restorer
        z = _block(encoder.blocks[0], x)
        deep = _block(encoder.blocks[2], _block(encoder.blocks[1], z))
        projection = encoder.mlp(deep.mean((2, 3)))
        shallow = out = restorer.head(x)
        for group in restorer.groups:
            inside = out
            for block in group.blocks:
                y = _act(block.conv1(_act(_guided(block.dgm1, inside, z))))
                inside = block.conv2(_act(_guided(block.dgm2, y, z))) + inside
            out = group.conv(inside) + out
        return restorer.tail(restorer.conv(out) + shallow), projection
