"""Networks of a few thousand parameters, as checkpoint files."""

from pathlib import Path

import torch

from airnet_basicsr.network.airnet import AirNet


def small_network(**options) -> AirNet:
    """Random weights, of a kind with which every part of the network matters."""
    torch.manual_seed(0)
    net = AirNet(**{'num_feat': 16, 'num_group': 1, 'num_block': 1, **options}).eval()
    for name, parameter in net.named_parameters():
        if parameter.dim() == 4:
            torch.nn.init.normal_(parameter, std=0.5 * parameter[0].numel() ** -0.5)
        elif name.endswith('.bias'):
            torch.nn.init.normal_(parameter, std=0.05)
    return net


def identity_network() -> AirNet:
    """A network that gives what it is given: what a program around it does to a picture shows."""
    net = AirNet(num_feat=8, num_group=1, num_block=1).eval()
    for conv in (net.restorer.head, net.restorer.conv, net.restorer.tail):
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    for channel in range(3):
        net.restorer.head.weight.data[channel, channel, 1, 1] = 1
        net.restorer.tail.weight.data[channel, channel, 1, 1] = 1
    return net


def save(net: AirNet, path: Path) -> Path:
    torch.save({'params': net.state_dict()}, path)
    return path
