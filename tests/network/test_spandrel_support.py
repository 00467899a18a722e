"""Programs that load models by spandrel load ours."""

import pytest
import torch
from small_models import save, small_network

from airnet_basicsr.network import model_files
from airnet_basicsr.network.checkpoints import to_official
from airnet_basicsr.network.momentum_contrast import MomentumContrast
from airnet_basicsr.network.spandrel_support import install

spandrel = pytest.importorskip('spandrel')


@pytest.fixture(scope='module')
def loader():
    install()
    install()
    return spandrel.ModelLoader()


def test_files_of_every_layout(loader, tmp_path):
    net = small_network()
    x = torch.rand(1, 3, 21, 30)
    with torch.inference_mode():
        expected = net(x).clamp(0, 1)
    ours = save(net, tmp_path / 'ours.pth')
    contrast = MomentumContrast(net.encoder, queue_size=512, momentum=0.9).state_dict()
    torch.save(to_official(net.state_dict(), contrast), tmp_path / 'official.pth')
    model_files.convert(str(ours), str(tmp_path / 'ours.safetensors'), 'ours')
    model_files.slim(str(ours), str(tmp_path / 'slim.safetensors'))
    for name, bound in {
        'ours.pth': 1e-6,
        'official.pth': 1e-6,
        'ours.safetensors': 1e-6,
        'slim.safetensors': 5e-3,
    }.items():
        found = loader.load_from_file(tmp_path / name)
        assert isinstance(found, spandrel.ImageModelDescriptor) and found.architecture.name == 'AirNet'
        assert (found.scale, found.input_channels, found.output_channels, found.purpose) == (1, 3, 3, 'Restoration')
        assert (found(x) - expected).abs().max() <= bound, name


def test_the_options_that_only_markers_tell(loader, tmp_path):
    net = small_network(unshuffle=2, image_residual=True)
    x = torch.rand(1, 3, 21, 31)
    with torch.inference_mode():
        expected = net(x).clamp(0, 1)
    model_files.convert(str(save(net, tmp_path / 'x.pth')), str(tmp_path / 'x.safetensors'), 'ours')
    for name in ('x.pth', 'x.safetensors'):
        assert (loader.load_from_file(tmp_path / name)(x) - expected).abs().max() <= 1e-6


def test_other_networks_stay_what_they_are(loader, tmp_path):
    torch.save({'params': torch.nn.Linear(2, 2).state_dict()}, tmp_path / 'other.pth')
    with pytest.raises(spandrel.UnsupportedModelError):
        loader.load_from_file(tmp_path / 'other.pth')
