"""Images in tiles, and padded, against the same images in one piece."""

import logging
from contextlib import contextmanager

import pytest
import torch
from basicsr.archs import build_network
from torch import nn
from torch.nn import functional as F

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.recognise import RIVALS
from airnet_basicsr.network.traits import traits_of
from airnet_basicsr.plugin.models.tiling import Tiles
from airnet_basicsr.restore.tiles import SMALLEST_TILE

FINITE = [network for network in RIVALS if traits_of(network()).reach is not None]


@contextmanager
def listening(caplog):
    """BasicSR's logger hands nothing on to the root's, where pytest listens."""
    logger = logging.getLogger('basicsr')
    logger.addHandler(caplog.handler)
    try:
        yield
    finally:
        logger.removeHandler(caplog.handler)


def image(height=150, width=330):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('network', FINITE, ids=lambda network: network.__name__)
@torch.no_grad()
def test_every_network_with_a_finite_field_of_view_shows_no_seams(network):
    torch.manual_seed(0)
    net = network().eval()
    if network.__name__ == 'DnCNN':  # random statistics: those of an untrained BatchNorm hide its convolutions
        net.train()
        net(image(64, 64))
        net.eval()
    tiles = Tiles({'tile': 176})
    tiled, whole = tiles.restore(net, image(), net), net(image())
    assert tiles.used == 176
    assert (whole - image()).abs().max() > 1e-3
    assert (tiled - whole).abs().max() < 0.1 / 255


def test_tiles_are_used_only_where_asked_for_or_after_memory_ran_out(caplog):
    sizes = []

    def small_memory(x):
        sizes.append(x.shape[-2] * x.shape[-1])
        if sizes[-1] > 200 * 200:
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 1.00 GiB.')
        return x * 0.5

    tiles = Tiles({})
    tiles.restore(nn.Identity(), image(), lambda x: x)
    assert tiles.used is None
    with listening(caplog):
        restored = tiles.restore(nn.Identity(), image(), small_memory)
    assert tiles.used == 165 and 'Memory ran out: trying again with tiles of 165 pixels' in caplog.text
    torch.testing.assert_close(restored, image() * 0.5)
    with pytest.raises(RuntimeError, match='size of tensor'):  # any other error is no reason to try again
        tiles.restore(nn.Identity(), image(), lambda x: x + torch.zeros(7))


SWINIR = {'upscale': 1, 'depths': [2], 'embed_dim': 8, 'num_heads': [2], 'upsampler': '', 'resi_connection': '1conv'}


@pytest.mark.parametrize(
    ('network', 'multiple'),
    [
        ({'type': 'SwinIR', 'img_size': 32, 'window_size': 8, **SWINIR}, 8),
        ({'type': 'SwinIR', 'img_size': 5, 'window_size': 7, **SWINIR}, 5),  # windows are no larger than img_size
        ({'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, 'scale': 1, 'num_block': 1, 'num_feat': 8}, 4),
    ],
    ids=['SwinIR', 'small SwinIR', 'RRDBNet'],
)
@torch.no_grad()
def test_basicsr_s_networks_get_the_sizes_that_they_take(network, multiple):
    torch.manual_seed(0)
    net = build_network(network).eval()
    lq = image(33, 41)
    padded = F.pad(lq, (0, -41 % multiple, 0, -33 % multiple), 'reflect')  # as BasicSR's SwinIRModel does
    torch.testing.assert_close(Tiles({}).restore(net, lq, net), net(padded)[..., :33, :41])
    for size in ((2, 3), (150, 331)):  # too small to be padded by reflection; in tiles
        assert Tiles({'tile': 200}).restore(net, image(*size), net).shape[2:] == size


def test_images_are_padded_to_the_multiple_of_the_option_file():
    seen = []
    Tiles({'multiple': 16}).restore(nn.Identity(), image(33, 41), lambda x: seen.append(x) or x)
    torch.testing.assert_close(seen[0], F.pad(image(33, 41), (0, 7, 0, 15), 'reflect'))


def test_a_network_that_fails_on_a_size_has_its_traceback_and_a_hint(caplog):
    def unet(images):
        small = F.interpolate(F.max_pool2d(images, 4), scale_factor=4)
        return images + small

    with listening(caplog), pytest.raises(RuntimeError, match='size of tensor'):
        Tiles({}).restore(nn.Identity(), image(33, 41), unet)
    assert '33 x 41' in caplog.text and 'val:multiple' in caplog.text
    assert Tiles({'multiple': 4}).restore(nn.Identity(), image(33, 41), unet).shape == (1, 3, 33, 41)


def test_whether_tiles_were_used_goes_by_area():
    for height, width, used in ((130, 300, None), (300, 130, None), (300, 140, 200)):
        tiles = Tiles({'tile': 200})
        restored = tiles.restore(nn.Identity(), image(height, width), lambda x: x)
        torch.testing.assert_close(restored, image(height, width))
        assert tiles.used == used


@pytest.mark.parametrize('val', [{'tile': 50}, {'tile_overlap': -1}, {'multiple': 0}])
def test_numbers_that_are_too_small(val):
    Tiles({'tile': SMALLEST_TILE, 'tile_overlap': 1, 'multiple': 1})
    with pytest.raises(InputError, match=f'val:{next(iter(val))}: .* is too small'):
        Tiles(val)
