"""AOD-Net: dehazing by the atmospheric scattering model, its two unknowns joined in one map.

B. Li et al., "AOD-Net: all-in-one dehazing network", ICCV 2017. The restored picture is K(x) x - K(x) + 1.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airnet_basicsr.network.traits import Traits


class AODNet(nn.Module):
    """The authors' network: 1,761 parameters.

    ``forward(x)`` gives B x 3 x H x W for B x 3 x H x W, values in [0, 1], not negative; any H and W. Names of tensors
    are those of the common PyTorch files (``e_conv1`` to ``e_conv5``).
    """

    def __init__(self) -> None:
        super().__init__()
        self.e_conv1 = nn.Conv2d(3, 3, 1)
        self.e_conv2 = nn.Conv2d(3, 3, 3, 1, 1)
        self.e_conv3 = nn.Conv2d(6, 3, 5, 1, 2)
        self.e_conv4 = nn.Conv2d(6, 3, 7, 1, 3)
        self.e_conv5 = nn.Conv2d(12, 3, 3, 1, 1)
        # K starts near 1, the identity; near 0 the last ReLU of a colour can be shut, and then never opens.
        nn.init.constant_(self.e_conv5.get_parameter('bias'), 1)
        self.traits = Traits(reach=7, bytes_per_pixel=200)

    def forward(self, x: Tensor) -> Tensor:
        x1 = F.relu(self.e_conv1(x))
        x2 = F.relu(self.e_conv2(x1))
        x3 = F.relu(self.e_conv3(torch.cat((x1, x2), 1)))
        x4 = F.relu(self.e_conv4(torch.cat((x2, x3), 1)))
        k = F.relu(self.e_conv5(torch.cat((x1, x2, x3, x4), 1)))
        return F.relu(k * x - k + 1)


def network_options(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """No arguments, where ``state`` is an :class:`AODNet`'s; None where it is another network's."""
    return {} if {name.partition('.')[0] for name in state} == {f'e_conv{i}' for i in range(1, 6)} else None
