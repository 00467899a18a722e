"""DnCNN: convolutions that estimate the noise of a picture, which is then taken away.

K. Zhang et al., "Beyond a Gaussian denoiser: residual learning of deep CNN for image denoising", IEEE TIP 2017. Names
of tensors are those of the authors' PyTorch files (github.com/cszn/KAIR), which hold the network with its BatchNorm
folded into the convolutions (``batch_norm=False``).
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from airnet_basicsr.network.traits import Traits


class DnCNN(nn.Module):
    """The defaults are the authors' network for colour (CDnCNN-B): 668,227 parameters once BatchNorm is folded in.

    ``forward(x)`` gives B x C x H x W for B x C x H x W, values in [0, 1], not clipped; any H and W.

    Args:
        num_in_ch: Channels of the image, in and out.
        num_feat: Channels of the features.
        num_layer: Convolutions, the first and the last included.
        batch_norm: BatchNorm between convolution and ReLU in all layers but the first and the last, as in training.
    """

    def __init__(self, num_in_ch: int = 3, num_feat: int = 64, num_layer: int = 20, batch_norm: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(num_in_ch, num_feat, 3, 1, 1), nn.ReLU(inplace=True)]
        for _ in range(num_layer - 2):
            layers.append(nn.Conv2d(num_feat, num_feat, 3, 1, 1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(num_feat))
            layers.append(nn.ReLU(inplace=True))
        self.model = nn.Sequential(*layers, nn.Conv2d(num_feat, num_in_ch, 3, 1, 1))
        self.traits = Traits(reach=num_layer, bytes_per_pixel=3 * 4 * num_feat)

    def forward(self, x: Tensor) -> Tensor:
        return x - self.model(x)


def network_options(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The arguments of :class:`DnCNN` that fit ``state``; None where it is another network's."""
    kernels = plain_convolutions(state)
    if len(kernels) < 2 or kernels[0].shape[1] != kernels[-1].shape[0]:
        return None
    return {
        'num_in_ch': kernels[0].shape[1],
        'num_feat': kernels[0].shape[0],
        'num_layer': len(kernels),
        'batch_norm': any(name.endswith('.running_mean') for name in state),
    }


def plain_convolutions(state: Mapping[str, Tensor]) -> list[Tensor]:
    """The kernels of one chain of 3 x 3 convolutions named ``model.N``, in order; empty where there is more in it."""
    if not all(re.fullmatch(r'model\.\d+\.\w+', name) for name in state):
        return []
    kernels = {int(name.split('.')[1]): tensor for name, tensor in state.items() if tensor.dim() == 4}
    if any(kernel.shape[2:] != (3, 3) for kernel in kernels.values()):
        return []
    return [kernels[place] for place in sorted(kernels)]
