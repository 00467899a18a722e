"""Mixed precision: what stays in float32, and that it learns as well."""

from copy import deepcopy
from statistics import mean

import numpy as np
import pytest
import torch
from basicsr.data import build_dataset
from basicsr.metrics import calculate_psnr
from basicsr.models import build_model
from basicsr.utils import tensor2img
from conftest import write_lmdb
from small_run import write_options

from airnet_basicsr.plugin.options import load_options

ITERATIONS = 1500


@pytest.fixture
def opt(tmp_path, paper_datasets, monkeypatch):
    monkeypatch.chdir(paper_datasets)
    opt = load_options(write_options(tmp_path))
    opt.update(dist=False, is_train=True, rank=0, world_size=1)
    opt['train'].update(encoder_warmup_iter=0, ema_decay=0.99)
    for phase, dataset in opt['datasets'].items():
        dataset['phase'] = phase
    return opt


def test_the_contrastive_part_and_the_offsets_stay_in_float32(opt):
    seen = {}
    opt['train']['amp'] = 'bf16'
    model = build_model(opt)

    def note(name):
        return lambda module, inputs, output: seen.update({name: output})

    model.net_g.restorer.groups[0].blocks[0].dgm1.register_forward_hook(note('guided module'))
    model.net_g.encoder.register_forward_hook(note('encoder'))
    model.cri_contrast.register_forward_hook(note('contrast'))
    model.feed_data(batch())
    model.optimize_parameters(1)
    assert seen['guided module'].dtype == torch.bfloat16
    assert {tensor.dtype for tensor in seen['encoder']} == {torch.float32}
    assert {tensor.dtype for tensor in seen['contrast']} == {torch.float32}
    assert model.output.dtype == torch.float32
    assert {parameter.dtype for parameter in model.net_g.parameters()} == {torch.float32}


def batch():
    rng = torch.Generator().manual_seed(0)
    images = {name: torch.rand(1, 2, 3, 24, 24, generator=rng) for name in ('lq', 'gt', 'key')}
    return images | {'degradation': torch.arange(2)[None]}


def gradient(opt, amp):
    opt['train']['amp'] = amp
    torch.manual_seed(0)
    model = build_model(opt)
    model.feed_data(batch())
    model.optimize_parameters(1)
    return torch.cat([parameter.grad.flatten() for parameter in model.net_g.parameters()])


@pytest.mark.parametrize(('amp', 'bound'), [('fp16', 0.01), ('bf16', 0.03)])
def test_gradients_are_those_of_float32_but_for_rounding(opt, amp, bound):
    expected = gradient(deepcopy(opt), None)
    distance = (gradient(deepcopy(opt), amp) - expected).norm() / expected.norm()
    assert 0 < distance < bound


def test_fp16_halves_the_scale_of_the_loss_where_gradients_overflow(opt):
    opt['train']['amp'] = 'fp16'
    model = build_model(opt)
    model.steps.scaler.load_state_dict({**model.steps.scaler.state_dict(), 'scale': 2.0**30})
    before = deepcopy(model.net_g.state_dict())
    model.feed_data(batch())
    model.optimize_parameters(1)
    assert model.steps.skipped == 1 and model.steps.scaler.get_scale() == 2.0**29
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.net_g.state_dict().items())
    for iteration in range(2, 20):
        model.optimize_parameters(iteration)
    assert 1 < model.steps.skipped < 18  # the scale has come down far enough
    assert not torch.equal(model.net_g.restorer.head.weight, before['restorer.head.weight'])


@pytest.fixture
def apart(opt, tmp_path, photos):
    """Trains on four of the pieces of photographs, validates on the other three; the learning rate decays to 0."""
    clean, others = dict(list(photos.items())[::2]), dict(list(photos.items())[1::2])
    veiled = {name: np.uint8(image * 0.6 + 90) for name, image in clean.items()}
    clean, veiled, others = (
        str(write_lmdb(tmp_path / f'{name}.lmdb', images))
        for name, images in (('clean', clean), ('veiled', veiled), ('others', others))
    )
    kinds = opt['datasets']['train']['degradations']
    kinds['noise']['dataroot_gt'] = kinds['rain']['dataroot_gt'] = clean
    kinds['rain']['dataroot_lq'] = veiled
    opt['datasets']['val']['degradation']['dataroot_gt'] = others
    opt['train']['scheduler'] = {
        'type': 'CosineAnnealingRestartLR',
        'periods': [ITERATIONS],
        'restart_weights': [1],
        'eta_min': 1e-7,
    }
    return opt


def trained(opt, amp, seed):
    """A model after ITERATIONS of 8 patches, and the PSNR of its averaged weights on the validation set."""
    opt['train']['amp'] = amp
    torch.manual_seed(seed)
    model = build_model(opt)
    train_set, val_set = (build_dataset(opt['datasets'][phase]) for phase in ('train', 'val'))
    torch.manual_seed(1000 + seed)
    for iteration in range(1, ITERATIONS + 1):
        items = [train_set[index] for index in range(len(train_set))]
        model.update_learning_rate(iteration)
        model.feed_data({name: torch.stack([item[name] for item in items]) for name in items[0]})
        model.optimize_parameters(iteration)
    scores = []
    for item in val_set:
        model.feed_data({name: item[name][None] for name in ('lq', 'gt')})
        model.test()
        scores.append(calculate_psnr(tensor2img([model.output]), tensor2img([item['gt']]), crop_border=0))
    return model, sum(scores) / len(scores)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_bf16_reaches_the_psnr_of_float32(apart):
    """On average: training runs of three seeds differ by 0.3 dB in either precision."""
    plain, mixed = [], []
    for seed in range(3):
        plain.append(trained(deepcopy(apart), None, seed)[1])
        model, value = trained(deepcopy(apart), 'bf16', seed)
        mixed.append(value)
        assert model.steps.skipped == 0
    assert min(plain) > 26
    assert mean(mixed) == pytest.approx(mean(plain), abs=0.1)
