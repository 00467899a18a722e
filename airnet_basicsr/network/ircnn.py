"""IRCNN's denoiser: seven dilated convolutions that estimate the noise of a picture.

K. Zhang et al., "Learning deep CNN denoiser prior for image restoration", CVPR 2017. Seven layers of 64 channels,
dilated by 1, 2, 3, 4, 3, 2 and 1.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from airnet_basicsr.network.traits import Traits

DILATIONS = (1, 2, 3, 4, 3, 2, 1)


class IRCNN(nn.Module):
    """The defaults are the authors' network for colour: 188,163 parameters. They trained one for each noise level.

    ``forward(x)`` gives B x C x H x W for B x C x H x W, values in [0, 1], not clipped; any H and W.

    Args:
        num_in_ch: Channels of the image, in and out.
        num_feat: Channels of the features.
        batch_norm: BatchNorm in all layers but the first and the last, as the paper trains; the authors' files have it
            folded in.
    """

    def __init__(self, num_in_ch: int = 3, num_feat: int = 64, batch_norm: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        last = len(DILATIONS) - 1
        for i, dilation in enumerate(DILATIONS):
            channels = num_feat if i else num_in_ch, num_feat if i < last else num_in_ch
            layers.append(nn.Conv2d(*channels, 3, 1, dilation, dilation))
            if batch_norm and 0 < i < last:
                layers.append(nn.BatchNorm2d(num_feat))
            if i < last:
                layers.append(nn.ReLU(inplace=True))
        # Not `model`: by the tensors' names and shapes a DnCNN of seven layers would be the same.
        self.dilated = nn.Sequential(*layers)
        self.traits = Traits(reach=sum(DILATIONS), bytes_per_pixel=3 * 4 * num_feat)

    def forward(self, x: Tensor) -> Tensor:
        return x - self.dilated(x)


def network_options(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The arguments of :class:`IRCNN` that fit ``state``; None where it is another network's."""
    if not all(name.startswith('dilated.') for name in state) or 'dilated.0.weight' not in state:
        return None
    kernel = state['dilated.0.weight']
    batch_norm = any(name.endswith('.running_mean') for name in state)
    return {'num_in_ch': kernel.shape[1], 'num_feat': kernel.shape[0], 'batch_norm': batch_norm}
