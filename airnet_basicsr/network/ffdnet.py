"""FFDNet: a denoiser that is told the noise level and works on half the height and width.

K. Zhang, W. Zuo and L. Zhang, "FFDNet: toward a fast and flexible solution for CNN based image denoising", IEEE TIP
2018. Names of tensors are those of the authors' PyTorch files (github.com/cszn/KAIR).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airnet_basicsr.network.dncnn import plain_convolutions
from airnet_basicsr.network.traits import Traits


class FFDNet(nn.Module):
    """The defaults are the authors' network for colour: 852,108 parameters.

    Args:
        num_in_ch: Channels of the image, in and out.
        num_feat: Channels of the features.
        num_layer: Convolutions.
        sigma: The noise level, on the scale 0 to 255, where a call names none.
    """

    def __init__(self, num_in_ch: int = 3, num_feat: int = 96, num_layer: int = 12, sigma: float = 25) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(4 * num_in_ch + 1, num_feat, 3, 1, 1), nn.ReLU(inplace=True)]
        for _ in range(num_layer - 2):
            layers += [nn.Conv2d(num_feat, num_feat, 3, 1, 1), nn.ReLU(inplace=True)]
        self.model = nn.Sequential(*layers, nn.Conv2d(num_feat, 4 * num_in_ch, 3, 1, 1))
        self.sigma = sigma
        self.traits = Traits(reach=2 * num_layer + 1, multiple_of=2, wants_sigma=True, bytes_per_pixel=4 * num_feat)

    def forward(self, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        """Denoise ``x``.

        Args:
            x: B x C x H x W, values in [0, 1] (noise may leave that range); any H and W.
            sigma: The noise level on the scale 0 to 255: a number, or one for each of the B images; nan where it is
                not known, which stands for the one that the network was built with.

        Returns:
            B x C x H x W, not clipped.
        """
        height, width = x.shape[-2:]
        cells = F.pixel_unshuffle(F.pad(x, (0, width % 2, 0, height % 2), mode='replicate'), 2)
        level = torch.as_tensor(self.sigma if sigma is None else sigma, dtype=x.dtype, device=x.device) / 255
        level = level.nan_to_num(self.sigma / 255).reshape(-1, 1, 1, 1).expand(len(x), 1, *cells.shape[-2:])
        return F.pixel_shuffle(self.model(torch.cat((cells, level), 1)), 2)[..., :height, :width]


def network_options(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The arguments of :class:`FFDNet` that fit ``state``; None where it is another network's."""
    kernels = plain_convolutions(state)
    if len(kernels) < 2 or kernels[0].shape[1] != kernels[-1].shape[0] + 1 or kernels[-1].shape[0] % 4:
        return None
    return {'num_in_ch': kernels[-1].shape[0] // 4, 'num_feat': kernels[0].shape[0], 'num_layer': len(kernels)}
