"""The network's size, its ablations and the pictures it takes; its numbers are checked in test_golden.py."""

import math

import pytest
import torch

from airnet_basicsr.errors import InputError
from airnet_basicsr.network import recognise
from airnet_basicsr.network.airnet import MADE_WITH, AirNet
from airnet_basicsr.network.checkpoints import load_strictly


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_sizes_of_the_release():
    net = AirNet()
    assert count(net.encoder) == 1_319_936
    assert count(net.restorer) == 6_290_441
    assert count(net) + count(net.encoder) == 8_930_313  # with the key encoder, as the release counts


@pytest.mark.parametrize('size', [(1, 1), (5, 3), (17, 32)])
@pytest.mark.parametrize(
    'variant',
    [{}, {'with_sft': False}, {'with_dcn': False}, {'unshuffle': 2}, {'unshuffle': 2, 'image_residual': True}],
)
def test_every_variant_restores_any_size(variant, size):
    net = AirNet(num_feat=8, num_group=2, num_block=1, **variant).eval()
    x = torch.rand(2, 3, *size)
    restored, encoding = net(x, encode=True)
    assert restored.shape == x.shape
    side = variant.get('unshuffle', 1)
    assert encoding.z.shape == (2, 8, *(math.ceil(length / side) for length in size))
    assert encoding.embedding.shape == encoding.projection.shape == (2, 32)
    torch.testing.assert_close(net(x), restored)


def test_ablations_drop_the_parameters_of_their_part():
    full = count(AirNet(num_feat=8, num_group=1, num_block=1))
    # Two modules: each has 4 1x1 convolutions in its SFT, and 16 -> 27 channels of offsets and masks with bias.
    assert full - count(AirNet(num_feat=8, num_group=1, num_block=1, with_sft=False)) == 2 * 4 * 8 * 8
    assert full - count(AirNet(num_feat=8, num_group=1, num_block=1, with_dcn=False)) == 2 * (16 * 9 + 1) * 27


def test_a_fresh_deformable_convolution_is_an_ordinary_one_of_half_weight():
    torch.manual_seed(0)
    dcn = AirNet(num_feat=8, num_group=1, num_block=1).restorer.groups[0].blocks[0].dgm1.dcn
    x, z = torch.randn(2, 8, 9, 7), torch.randn(2, 8, 9, 7)
    torch.testing.assert_close(dcn(x, z), 0.5 * torch.nn.functional.conv2d(x, dcn.weight, padding=1))


def test_the_shortcuts_of_inference_change_nothing():
    """Folded BatchNorm, tiles and in-place sums, over more pixels than a tile has, in both memory formats."""
    torch.manual_seed(0)
    net = AirNet(num_feat=16, num_group=1, num_block=2).eval()
    for name, tensor in net.state_dict().items():
        if 'offset_mask' in name or name.endswith(('running_mean', 'running_var')):
            tensor.copy_(torch.rand_like(tensor))
    x = torch.rand(2, 3, 97, 91)
    expected, encoding = net(x, encode=True)
    assert expected.requires_grad
    for memory_format in (torch.contiguous_format, torch.channels_last):
        net, x = net.to(memory_format=memory_format), x.contiguous(memory_format=memory_format)
        with torch.inference_mode():
            restored, inferred = net(x, encode=True)
        torch.testing.assert_close(restored, expected.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(inferred.z, encoding.z.detach(), rtol=1e-4, atol=1e-5)


def test_identity_init_gives_back_the_input():
    x = torch.rand(1, 3, 24, 20)
    torch.testing.assert_close(AirNet(num_feat=8, num_group=1, num_block=2, identity_init=True).eval()(x), x)


def test_dilated_init_starts_as_dilated_convolutions_in_turn():
    torch.manual_seed(0)
    net = AirNet(num_feat=8, num_group=1, num_block=2, dilated_init=[1, 3, 4])
    x, z = torch.randn(1, 8, 20, 23), torch.randn(1, 8, 20, 23)
    modules = [module for block in net.restorer.groups[0].blocks for module in (block.dgm1, block.dgm2)]
    for module, dilation in zip(modules, (1, 3, 4, 1), strict=True):
        weight = module.dcn.weight
        expected = 0.5 * torch.nn.functional.conv2d(x, weight, padding=dilation, dilation=dilation)
        torch.testing.assert_close(module.dcn(x, z), expected)


@pytest.mark.parametrize(
    'options', [{'unshuffle': 2}, {'image_residual': True}, {'unshuffle': 4, 'image_residual': True}]
)
def test_a_file_tells_the_options_that_no_shape_shows(options):
    net = AirNet(num_feat=16, num_group=1, num_block=1, **options).eval()
    described = recognise.load(net.state_dict())
    assert {key: described.options[key] for key in options} == options
    x = torch.rand(1, 3, 20, 24)
    torch.testing.assert_close(described.model(x), net(x), rtol=0, atol=0)


def test_the_network_of_the_paper_has_no_marker():
    assert not [name for name in AirNet().state_dict() if name.startswith(MADE_WITH)]


@pytest.mark.parametrize(
    ('marker', 'value', 'said'),
    [
        ('lens', 1, 'newer'),
        ('unshuffle', 1, 'unshuffle'),
        ('unshuffle', 3, '2 or 4 or 8'),
        ('unshuffle', 4, '12 channels'),
        ('image_residual', 7, '7'),
    ],
)
def test_markers_that_are_not_understood_are_refused(marker, value, said):
    state = AirNet(num_feat=16, num_group=1, num_block=1, unshuffle=2).state_dict()
    state[MADE_WITH + marker] = torch.tensor(value)
    with pytest.raises(InputError, match=said):
        recognise.load(state)


def test_weights_made_with_other_options_are_not_loaded():
    state = AirNet(num_feat=16, num_group=1, num_block=1, unshuffle=2).state_dict()
    net = AirNet(num_feat=16, num_group=1, num_block=1, unshuffle=2, image_residual=True)
    with pytest.raises(InputError, match='image_residual is missing'):
        load_strictly(net, state, 'file.pth')
    state[f'{MADE_WITH}image_residual'] = torch.tensor(0)
    with pytest.raises(InputError, match='image_residual is 0 instead of 1'):
        load_strictly(net, state, 'file.pth')


def test_with_the_residual_an_untrained_network_gives_back_its_input():
    net = AirNet(num_feat=16, num_group=1, num_block=1, unshuffle=2, image_residual=True, identity_init=True)
    x = torch.rand(1, 3, 9, 11)
    torch.testing.assert_close(net(x), x, rtol=0, atol=0)
