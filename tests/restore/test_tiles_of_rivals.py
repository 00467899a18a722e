"""Pictures restored with the networks that AirNet is compared with."""

import numpy as np
import pytest
import torch
from skimage import data

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.aodnet import AODNet
from airnet_basicsr.network.brdnet import BRDNet
from airnet_basicsr.network.dncnn import DnCNN
from airnet_basicsr.network.ffdnet import FFDNet
from airnet_basicsr.network.ircnn import IRCNN
from airnet_basicsr.network.nafnet import NAFNet
from airnet_basicsr.network.promptir import PromptIR
from airnet_basicsr.restore import Restorer

NETWORKS = {
    'AODNet': AODNet,
    'BRDNet': lambda: BRDNet(num_feat=8),
    'DnCNN': lambda: DnCNN(num_feat=8, num_layer=20),
    'FFDNet': lambda: FFDNet(num_feat=16, num_layer=12),
    'IRCNN': lambda: IRCNN(num_feat=8),
}


def saved(net, path, gain=1.0):
    torch.manual_seed(0)
    for parameter in net.parameters():
        if parameter.dim() == 4:  # so that what is far away matters
            torch.nn.init.normal_(parameter, std=gain * (2 / parameter[0].numel()) ** 0.5)
    torch.save({'params': net.state_dict()}, path)
    return path


@pytest.mark.parametrize('name', NETWORKS)
def test_tiles_show_no_seam_where_the_field_of_view_is_finite(tmp_path, name):
    model = saved(NETWORKS[name](), tmp_path / 'net.pth')
    sigma = 25 if name == 'FFDNet' else None
    image = np.float32(data.astronaut()[:301, :330]) / 255  # of no size that divides
    whole = Restorer(model, device='cpu', tile=512, sigma=sigma)(image)
    assert whole.std() > 0.02
    counts = []
    tiled = Restorer(model, device='cpu', tile=256, sigma=sigma)(image, lambda done, of: counts.append(of))
    assert counts[0] > 1
    assert np.abs(tiled - whole).max() < 0.1 / 255


@pytest.mark.parametrize(
    'build',
    [
        lambda: NAFNet(width=8, middle_blk_num=1, enc_blk_nums=(1, 1), dec_blk_nums=(1, 1)),
        lambda: PromptIR(dim=8, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1, prompt_dims=(8, 16, 32)),
    ],
)
def test_a_network_that_looks_at_everything_is_restored_too(tmp_path, build):
    net = build()
    image = data.astronaut()[:150, :170]
    for options in ({}, {'tile': 128}, {'self_ensemble': True}):
        restored = Restorer(saved(net, tmp_path / 'net.pth'), device='cpu', **options)(image)
        assert restored.shape == image.shape and restored.dtype == np.uint8


def test_only_airnet_explains(tmp_path):
    model = saved(DnCNN(num_feat=8, num_layer=3), tmp_path / 'net.pth')
    restorer = Restorer(model, device='cpu')
    with pytest.raises(InputError, match='reference embeddings'):
        restorer.explain(data.astronaut())


def test_what_is_for_grey_pictures_is_refused(tmp_path):
    with pytest.raises(InputError, match='for 1 channels'):
        Restorer(saved(DnCNN(num_in_ch=1, num_feat=8, num_layer=3), tmp_path / 'net.pth'))


def test_the_noise_level_is_given_where_a_network_wants_it_and_nowhere_else(tmp_path):
    told = saved(FFDNet(num_feat=8, num_layer=3), tmp_path / 'told.pth')
    blind = saved(DnCNN(num_feat=8, num_layer=3), tmp_path / 'blind.pth')
    for model, sigma in ((told, None), (told, 256), (told, -1), (told, float('nan')), (blind, 25)):
        with pytest.raises(InputError, match='sigma'):
            Restorer(model, device='cpu', sigma=sigma)
    image = data.astronaut()[:40, :40]
    low, high = (Restorer(told, device='cpu', sigma=sigma)(image) for sigma in (0, 200))
    assert not np.array_equal(low, high)
