"""Images in tiles, and padded, against the same images in one piece."""

import logging
from contextlib import contextmanager

import pytest
import torch
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


def test_images_are_padded_to_what_a_network_takes():
    class Windows(nn.Module):
        window_size = 8

        def forward(self, x):
            assert x.shape[-2] % self.window_size == 0 == x.shape[-1] % self.window_size
            return x

    net = Windows()
    for height, width in ((33, 41), (3, 5), (8, 16)):
        assert torch.equal(Tiles({}).restore(net, image(height, width), net), image(height, width))
    seen = []
    Tiles({'multiple': 16}).restore(net, image(33, 41), lambda x: seen.append(x) or x)
    torch.testing.assert_close(seen[0], F.pad(image(33, 41), (0, 7, 0, 15), 'reflect'))


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
