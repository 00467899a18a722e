"""BRDNet: two chains of convolutions, one of them dilated, that estimate the noise of a picture side by side.

C. Tian, Y. Xu and W. Zuo, "Image denoising using deep CNN with batch renormalization", Neural Networks 2020. The layers
are those of the authors' Keras code (github.com/hellloxiaotian/BRDNet).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from airnet_basicsr.network.traits import Traits


def _layer(in_channels: int, out_channels: int, dilation: int = 1, norm: bool = True) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(in_channels, out_channels, 3, 1, dilation, dilation)]
    if norm:
        # The authors' batch renormalization reads its limits (r_max 1, d_max 0) once, when the graph is built, and with
        # these it is BatchNorm; epsilon and momentum are Keras's.
        layers.append(nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01))
    return [*layers, nn.ReLU(inplace=True)]


class BRDNet(nn.Module):
    """The defaults are the authors' network for colour: 1,115,051 parameters once BatchNorm is folded in.

    ``forward(x)`` gives B x C x H x W for B x C x H x W, values in [0, 1], not clipped; any H and W.

    Args:
        num_in_ch: Channels of the image, in and out.
        num_feat: Channels of the features.
    """

    def __init__(self, num_in_ch: int = 3, num_feat: int = 64) -> None:
        super().__init__()
        upper = [_layer(num_in_ch if i == 0 else num_feat, num_feat) for i in range(16)]
        # Of the lower chain only the plain layers are normalized.
        dilations = [1, *[2] * 7, 1, *[2] * 6, 1]
        lower = [
            _layer(num_feat if i else num_in_ch, num_feat, dilation, norm=dilation == 1)
            for i, dilation in enumerate(dilations)
        ]
        self.upper, self.lower = (
            nn.Sequential(*sum(chain, []), nn.Conv2d(num_feat, num_in_ch, 3, 1, 1)) for chain in (upper, lower)
        )
        self.fusion = nn.Conv2d(2 * num_in_ch, num_in_ch, 3, 1, 1)
        self.traits = Traits(reach=sum(dilations) + 2, bytes_per_pixel=3 * 4 * num_feat)

    def forward(self, x: Tensor) -> Tensor:
        return x - self.fusion(torch.cat((x - self.upper(x), x - self.lower(x)), 1))


def network_options(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The arguments of :class:`BRDNet` that fit ``state``; None where it is another network's."""
    if {name.partition('.')[0] for name in state} != {'upper', 'lower', 'fusion'} or 'upper.0.weight' not in state:
        return None
    return {'num_in_ch': state['upper.0.weight'].shape[1], 'num_feat': state['upper.0.weight'].shape[0]}
