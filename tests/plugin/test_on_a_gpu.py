"""On a GPU: that what runs there is what runs on a CPU."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from basicsr.models import build_model
from small_models import save, small_network
from small_run import write_options

from airnet_basicsr import Restorer
from airnet_basicsr.network.ops import chosen_backend, deform_conv
from airnet_basicsr.plugin.options import load_options

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')]


@pytest.fixture
def opt(tmp_path, paper_datasets, monkeypatch):
    monkeypatch.chdir(paper_datasets)
    opt = load_options(write_options(tmp_path))
    opt.update(dist=False, is_train=True, rank=0, world_size=1)
    opt['train'].update(encoder_warmup_iter=0, ema_decay=0)
    opt['path'].update(models=str(tmp_path), training_states=str(tmp_path), experiments_root=str(tmp_path))
    opt['path']['pretrain_network_g'] = str(save(small_network(), tmp_path / 'start.pth'))
    opt['compute'] = {'tf32': False}
    return opt


def batch():
    rng = torch.Generator().manual_seed(0)
    images = {name: torch.rand(2, 2, 3, 32, 32, generator=rng) for name in ('lq', 'gt', 'key')}
    return images | {'degradation': torch.arange(2).repeat(2, 1)}


def gradient(opt, gpus, **compute):
    opt = deepcopy(opt)
    opt['num_gpu'] = gpus
    opt['compute'].update(compute)
    torch.manual_seed(0)
    model = build_model(opt)
    model.feed_data(batch())
    model.optimize_parameters(1)
    assert model.steps.skipped == 0
    return torch.cat([parameter.grad.flatten().cpu() for parameter in model.net_g.parameters()])


def test_auto_is_basicsrs_own_operator(monkeypatch):
    monkeypatch.delenv(deform_conv.VARIABLE, raising=False)
    assert chosen_backend('cuda') == 'basicsr'


WAYS = {
    'as it is': {},
    'torchvision': {'dcn_backend': 'torchvision'},
    'triton': {'dcn_backend': 'triton'},
    'channels-last': {'channels_last': True},
    'contiguous triton': {'dcn_backend': 'triton', 'channels_last': False},
    'compiled': {'compile': True},
}


@pytest.mark.parametrize('way', WAYS.values(), ids=WAYS)
def test_a_training_step_has_the_gradients_of_a_cpu(opt, way):
    expected = gradient(opt, 0)
    assert (gradient(opt, 1, **way) - expected).norm() <= 1e-3 * expected.norm()


@pytest.mark.parametrize(('amp', 'bound'), [('fp16', 0.01), ('bf16', 0.03)])
def test_mixed_precision_is_as_close_as_on_a_cpu(opt, amp, bound):
    expected = gradient(opt, 0)
    opt['train']['amp'] = amp
    assert 0 < (gradient(opt, 1) - expected).norm() < bound * expected.norm()


@pytest.mark.parametrize(('dtype', 'levels'), [('float32', 1), ('bfloat16', 4)])
def test_a_restored_picture_is_that_of_a_cpu(tmp_path, dtype, levels):
    model = save(small_network(), tmp_path / 'net.pth')
    image = np.random.RandomState(0).randint(0, 256, (150, 200, 3), np.uint8)
    expected = Restorer(model, device='cpu')(image).astype(int)
    restored = Restorer(model, device='cuda', dtype=dtype, tile=128)(image)
    assert np.abs(restored - Restorer(model, device='cpu', tile=128)(image).astype(int)).max() <= levels
    assert np.abs(Restorer(model, device='cuda', dtype=dtype)(image) - expected).max() <= levels
