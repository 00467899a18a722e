"""What every network gets in training: tested with AirNet and with rivals."""

import copy
import io
import json
import logging
import math
import os
import re
import shutil
import signal
import sys

import pytest
import torch
import yaml
from basicsr.archs import build_network
from basicsr.data import build_dataset
from basicsr.models import build_model
from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY
from small_run import write_options
from test_resume import assert_same, start, wait_for
from torch import nn
from torch.nn import functional as F
from torch.utils.data import default_collate

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.dry_run import dry_run
from airnet_basicsr.plugin.models.best_network import BestNetwork
from airnet_basicsr.plugin.models.interruption import NUMBERS, interruption
from airnet_basicsr.plugin.models.restoration_model import RestorationModel
from airnet_basicsr.plugin.models.training_state import prune
from airnet_basicsr.plugin.options import load_options
from basicsr import train

NETWORKS = {
    'AirNet': {'num_feat': 16, 'num_group': 1, 'num_block': 1},
    'NAFNet': {'width': 16, 'middle_blk_num': 1, 'enc_blk_nums': [1, 1], 'dec_blk_nums': [1, 1]},
    'DnCNN': {'num_feat': 16, 'num_layer': 4},
}
every_network = pytest.mark.parametrize('name', NETWORKS)


@pytest.fixture(autouse=True)
def talkative():
    """BasicSR sets the logger's level only where the first who asked for it named a file."""
    logger = logging.getLogger('basicsr')
    before = logger.level
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(before)


def options(name: str, folder, **changes) -> dict:
    """Those of a small training run of a network; ``changes`` go to `train`."""
    opt = load_options(write_options(folder, total_iter=12, save_checkpoint_freq=5, val_freq=6))
    opt['network_g'] = {'type': name, **NETWORKS.get(name, {})}
    if name != 'AirNet':
        opt['model_type'] = 'RestorationModel'
        for key in ('contrast_opt', 'encoder_warmup_iter', 'queue_size', 'key_momentum'):
            del opt['train'][key]
    opt['train'].update(changes)
    return opt


def write(opt: dict, folder) -> None:
    plain = json.loads(json.dumps({key: value for key, value in opt.items() if key != 'plugin'}))
    (folder / 'run.yml').write_text(yaml.safe_dump(plain))


@pytest.fixture
def run(tmp_path, paper_datasets, monkeypatch):
    """Trains in this process, as the command does."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'datasets').symlink_to(paper_datasets / 'datasets')

    def train_with(opt, *arguments):
        write(opt, tmp_path)
        monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', 'run.yml', *arguments])
        train.train_pipeline(str(tmp_path))
        models = tmp_path / 'experiments/run/models'
        return torch.load(models / 'net_g_latest.pth', weights_only=True)

    return train_with


@pytest.fixture
def said():
    """Gives what BasicSR's logger has said so far."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter('%(levelname)s: %(message)s'))
    logger = logging.getLogger('basicsr')
    logger.addHandler(handler)
    yield stream.getvalue
    logger.removeHandler(handler)


def built(name: str, folder, paper_datasets, monkeypatch, **changes):
    """A model that is not run by BasicSR's loop."""
    monkeypatch.chdir(paper_datasets)
    opt = options(name, folder, **{'ema_decay': 0, **changes})
    if name == 'AirNet':
        opt['train'].update(encoder_warmup_iter=changes.get('encoder_warmup_iter', 0))
    opt.update(dist=False, is_train=True, rank=0, world_size=1)
    opt['path'].update(models=str(folder), training_states=str(folder), experiments_root=str(folder))
    torch.manual_seed(0)
    return build_model(opt)


@pytest.fixture
def build(tmp_path, paper_datasets, monkeypatch):
    return lambda name, **changes: built(name, tmp_path, paper_datasets, monkeypatch, **changes)


def batch(items: int, seed: int = 0) -> dict:
    rng = torch.Generator().manual_seed(seed)
    images = {name: torch.rand(items, 2, 3, 24, 24, generator=rng) for name in ('lq', 'gt', 'key')}
    return images | {'degradation': torch.arange(2).repeat(items, 1)}


# ---- Resuming ----


@every_network
def test_interrupted_and_resumed_the_result_is_the_same(name, run, tmp_path):
    undisturbed = run(options(name, tmp_path))
    shutil.rmtree(tmp_path / 'experiments')

    class Interrupt(logging.Handler):
        def emit(self, record):
            if re.search('iter: +7, lr', record.getMessage()):
                os.kill(os.getpid(), signal.SIGTERM)

    before = [signal.getsignal(number) for number in NUMBERS]
    handler = Interrupt()
    logging.getLogger('basicsr').addHandler(handler)
    interruption.handle_signals()
    try:
        with pytest.raises(SystemExit) as left:
            run(options(name, tmp_path))
    finally:
        logging.getLogger('basicsr').removeHandler(handler)
        interruption.name = None
        for number, of_before in zip(NUMBERS, before, strict=True):
            signal.signal(number, of_before)
    assert left.value.code == 75
    assert (tmp_path / 'experiments/run/training_states/7.state').is_file()
    assert_same(run(options(name, tmp_path), '--auto_resume'), undisturbed)


@pytest.fixture
def one_thread():
    """As `start` runs training: another number of threads adds in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@every_network
@pytest.mark.usefixtures('one_thread')
def test_killed_and_resumed_the_result_is_the_same(name, run, tmp_path):
    undisturbed = run(options(name, tmp_path))
    shutil.rmtree(tmp_path / 'experiments')
    process = start(tmp_path)
    wait_for(tmp_path, process, 'iter: +7, lr')
    process.kill()
    process.wait()
    assert not (tmp_path / 'experiments/run/models/net_g_latest.pth').exists()
    assert_same(run(options(name, tmp_path), '--auto_resume'), undisturbed)


@ARCH_REGISTRY.register()
class WithDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, 1, 1)

    def forward(self, x):
        return x + F.dropout2d(self.conv(x), 0.5, self.training)


@pytest.mark.parametrize('last', [5, 7])
def test_random_numbers_of_the_network_are_resumed_in_mid_epoch_and_at_its_end(run, tmp_path, last):
    """An epoch has 15 items: 5 iterations of batch 3."""
    opt = options('WithDropout', tmp_path)
    opt['datasets']['train']['batch_size_per_gpu'] = 3
    opt['logger']['save_checkpoint_freq'] = last
    undisturbed = run(copy.deepcopy(opt))
    for state in (tmp_path / 'experiments/run/training_states').iterdir():
        if int(state.stem) > last:
            state.unlink()
    (tmp_path / 'experiments/run/models/net_g_latest.pth').unlink()
    assert_same(run(opt, '--auto_resume'), undisturbed)


def test_what_has_changed_in_the_option_file_is_said(run, tmp_path, said):
    opt = options('NAFNet', tmp_path)
    run(copy.deepcopy(opt))
    opt['train']['optim_g']['lr'] = 0.002
    opt['train']['scheduler']['milestones'] = [11]
    opt['train']['total_iter'] = 14
    opt['train']['amp'] = 'fp16'
    run(opt, '--auto_resume')
    lines = said()
    assert 'iter:      14' in lines
    state_wins, file_wins = (line for line in lines.splitlines() if 'WARNING' in line and '(state: ' in line)
    assert 'train:optim_g:lr: 0.002 (state: 0.001)' in state_wins
    assert 'train:scheduler:milestones: [11] (state: [20, 30])' in state_wins
    assert 'train:total_iter: 14 (state: 12)' in file_wins and 'train:amp: fp16 (state: nothing)' in file_wins
    assert 'optim_g' not in file_wins and 'total_iter' not in state_wins


@pytest.mark.parametrize(
    ('section', 'change', 'message'),
    [
        ('train', {'optim_g': {'type': 'SGD', 'lr': 0.1}}, 'another optimizer.*train:optim_g'),
        ('train', {'optim_g': {'type': 'Muon', 'lr': 0.1}}, 'another optimizer.*train:optim_g'),
        ('train', {'scheduler': {'type': 'WarmupCosineLR'}}, 'train:scheduler:type must stay'),
        ('train', {'queue_size': 32}, 'train:queue_size: 32.*holds 16 keys'),
        ('network_g', {'num_block': 2}, 'net_g_10.pth'),
    ],
)
def test_what_cannot_be_resumed_together_is_refused(run, tmp_path, trained, section, change, message):
    shutil.copytree(trained / 'experiments', tmp_path / 'experiments')
    opt = options('AirNet', tmp_path)
    opt[section].update(change)
    with pytest.raises(InputError, match=message):
        run(opt, '--auto_resume')


@pytest.fixture(scope='module')
def trained(tmp_path_factory, paper_datasets):
    """A folder with a training run of AirNet that is over."""
    folder = tmp_path_factory.mktemp('trained')
    (folder / 'datasets').symlink_to(paper_datasets / 'datasets')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write(options('AirNet', folder), folder)
        patch.setattr(sys, 'argv', ['train.py', '-opt', 'run.yml'])
        train.train_pipeline(str(folder))
    return folder


def test_periods_that_end_before_the_new_total_iter_are_refused(run, tmp_path):
    opt = options('NAFNet', tmp_path)
    opt['train']['scheduler'] = {'type': 'CosineAnnealingRestartLR', 'periods': [12]}
    run(copy.deepcopy(opt))
    opt['train']['total_iter'] = 20
    opt['train']['scheduler']['periods'] = [20]
    with pytest.raises(InputError, match='train:total_iter: 20 iterations, but the periods .* end at 12'):
        run(opt, '--auto_resume')


# ---- The end of training ----


def states(folder) -> set[int]:
    return {int(path.stem) for path in (folder / 'experiments/run/training_states').iterdir()}


def test_training_ends_at_total_iter_also_with_incomplete_batches_and_after_a_change(run, tmp_path, said):
    opt = options('NAFNet', tmp_path, total_iter=9)
    data = opt['datasets']['train']
    data.update(batch_size_per_gpu=4, dataset_enlarge_ratio=2)  # 6 items: one batch, and two items that are left over
    opt['logger']['save_checkpoint_freq'] = 3
    opt['val']['val_freq'] = 100
    run(copy.deepcopy(opt))
    assert states(tmp_path) == {3, 6, 9}
    data.update(batch_size_per_gpu=1, dataset_enlarge_ratio=10)
    opt['train']['total_iter'] = 12
    run(copy.deepcopy(opt), '--auto_resume')
    assert states(tmp_path) == {3, 6, 9, 12}
    assert 'datasets:train:batch_size_per_gpu: 1 (state: 4)' in said()


def test_fewer_images_than_a_batch_are_refused(run, tmp_path):
    opt = options('NAFNet', tmp_path)
    opt['datasets']['train'].update(batch_size_per_gpu=4, dataset_enlarge_ratio=1)
    for begin in (lambda: run(opt), lambda: dry_run(str(tmp_path))):
        with pytest.raises(InputError, match='3 items.* no batch of 4 .*Raise dataset_enlarge_ratio'):
            begin()


# ---- Steps ----


def hold_statistics(model) -> None:
    """BatchNorm depends on the parts of a batch; without it, nothing does."""
    model.net_g.eval()
    if hasattr(model, 'contrast'):
        model.contrast.eval()


@every_network
def test_two_batches_are_one_of_twice_the_size(name, build):
    found = []
    for parts in (1, 2):
        # Not Adam, which makes steps of one length of whatever rounding leaves of a gradient.
        model = build(name, accumulate=parts, optim_g={'type': 'SGD', 'lr': 0.1})
        for iteration in range(1, 4):
            hold_statistics(model)
            model.feed_data(batch(2, seed=iteration))
            model.optimize_parameters(iteration)
        found.append((model.net_g.state_dict(), model.log_dict, getattr(model, 'contrast', model.net_g).state_dict()))
    (one, one_log, one_contrast), (two, two_log, two_contrast) = found
    for tensors in ((one, two), (one_contrast, two_contrast)):
        for key in tensors[0]:
            torch.testing.assert_close(tensors[0][key], tensors[1][key], rtol=1e-6, atol=1e-6, msg=key)
    for key in one_log.keys() - {'images_per_s'}:
        assert two_log[key] == pytest.approx(one_log[key], rel=1e-5)


def test_an_iteration_draws_all_that_it_accumulates(run, tmp_path):
    """The same images, in the same order and with the same schedule, as with a batch of the whole size."""
    found = []
    for parts, size in ((1, 4), (2, 2)):
        opt = options('NAFNet', tmp_path, accumulate=parts)
        opt['datasets']['train']['batch_size_per_gpu'] = size
        found.append(run(opt)['params'])
    for key in found[0]:
        torch.testing.assert_close(found[0][key], found[1][key], rtol=1e-4, atol=1e-5)


@every_network
def test_bf16_gradients_are_those_of_float32_but_for_rounding(name, build):
    gradients = []
    for amp in (None, 'bf16'):
        model = build(name, amp=amp)
        model.feed_data(batch(1))
        model.optimize_parameters(1)
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.net_g.parameters()]))
    plain, mixed = gradients
    assert 0 < (mixed - plain).norm() / plain.norm() < 0.05


@every_network
def test_the_gradient_is_clipped(name, build):
    """Of SGD without momentum, a step is as long as learning rate times gradient."""
    model = build(name, grad_clip=0.01, optim_g={'type': 'SGD', 'lr': 1.0})
    before = nn.utils.parameters_to_vector(model.net_g.parameters()).detach().clone()
    model.feed_data(batch(1))
    model.optimize_parameters(1)
    step = nn.utils.parameters_to_vector(model.net_g.parameters()).detach() - before
    assert model.log_dict['grad_norm'] > 0.02
    assert step.norm().item() == pytest.approx(0.01, rel=1e-3)


@every_network
def test_the_average_follows_each_step(name, build):
    model = build(name, ema_decay=0.75)
    before = {key: parameter.clone() for key, parameter in model.net_g_ema.named_parameters()}
    model.feed_data(batch(1))
    model.optimize_parameters(1)
    trained = dict(model.net_g.named_parameters())
    for key, average in model.net_g_ema.named_parameters():
        torch.testing.assert_close(average, 0.75 * before[key] + 0.25 * trained[key])
    assert any(not torch.equal(trained[key], before[key]) for key in before)


@every_network
def test_a_batch_that_is_not_finite_is_skipped(name, build):
    model = build(name, nonfinite_limit=2)
    bad = batch(1)
    bad['lq'][0, 0, 0, 0, 0] = math.nan
    before = copy.deepcopy(model.net_g.state_dict())
    model.feed_data(bad)
    model.optimize_parameters(1)
    assert model.log_dict['skipped'] == 1
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.net_g.state_dict().items())
    with pytest.raises(InputError, match='2 steps in a row'):
        model.optimize_parameters(2)


def test_the_warm_up_has_the_contrastive_loss_unweighted(build):
    """In the release its weight there is 1, whatever it is afterwards."""
    logged = {}
    for weight in (0.1, 1.0):
        loss = {'type': 'InfoNCELoss', 'loss_weight': weight}
        for warmup in (1, 0):
            model = build('AirNet', contrast_opt=loss, encoder_warmup_iter=warmup)
            model.feed_data(batch(1))
            model.optimize_parameters(1)
            logged[weight, warmup] = model.log_dict['l_contrast']
    assert logged[0.1, 1] == logged[1.0, 1] == logged[1.0, 0]
    assert logged[0.1, 0] == pytest.approx(0.1 * logged[1.0, 0])


def test_muon_for_a_network_without_wide_convolutions_is_refused(build):
    with pytest.raises(InputError, match='train:optim_g:type: Muon .* at least 16 channels'):
        build('AODNet', optim_g={'type': 'Muon', 'lr': 0.001})


# ---- Losses and rates ----


@ARCH_REGISTRY.register()
class Pyramid(nn.Module):
    """Gives the image, then another of it, then one of half its size; in testing the first alone."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([0.9, 0.8, 0.7]))

    def forward(self, x):
        outputs = [x * self.gain[0], x * self.gain[1], F.avg_pool2d(x, 2) * self.gain[2]]
        return outputs if self.training else outputs[0]


def test_each_of_several_outputs_has_its_loss(build):
    data = batch(1)
    lq, gt = data['lq'][0], data['gt'][0]
    expected = [
        (0.9 * lq - gt).abs().mean(),
        (0.8 * lq - gt).abs().mean(),
        (0.7 * F.avg_pool2d(lq, 2) - F.avg_pool2d(gt, 2)).abs().mean(),
    ]
    model = build('Pyramid')
    model.feed_data(data)
    model.optimize_parameters(1)
    logged = [model.log_dict[key] for key in ('l_pix', 'l_pix_2', 'l_pix_3')]
    assert logged == pytest.approx([loss.item() for loss in expected], rel=1e-5)
    assert (model.net_g.gain.grad != 0).all()
    weighted = build('Pyramid', output_weights=[1, 0.5, 0])
    weighted.feed_data(data)
    weighted.optimize_parameters(1)
    grads = model.net_g.gain.grad * torch.tensor([1, 0.5, 0])
    torch.testing.assert_close(weighted.net_g.gain.grad, grads)
    wrong = build('Pyramid', output_weights=[1, 1])
    wrong.feed_data(data)
    with pytest.raises(InputError, match='train:output_weights: 2 of them, the network gives 3'):
        wrong.optimize_parameters(1)


@ARCH_REGISTRY.register()
class OfOneChannel(nn.Conv2d):
    """Without a word, a loss compares its single channel with each of the clean image's."""

    def __init__(self):
        super().__init__(3, 1, 1)


@ARCH_REGISTRY.register()
class SmallestFirst(Pyramid):
    def forward(self, x):
        return super().forward(x)[::-1]


@ARCH_REGISTRY.register()
class WithAMask(OfOneChannel):
    """And gives that channel as its second output."""

    def forward(self, x):
        mask = super().forward(x)
        return x * mask, mask


def test_a_second_output_of_other_channels_is_refused(build):
    model = build('WithAMask')
    model.feed_data(batch(1))
    with pytest.raises(InputError, match='option network_g: output 2 has 1 channels, the images 3'):
        model.optimize_parameters(1)


@pytest.mark.parametrize('name', ['OfOneChannel', 'SmallestFirst'])
def test_a_network_that_gives_another_shape_is_refused(name, build):
    model = build(name)
    model.feed_data(batch(1))
    with pytest.raises(InputError, match='option network_g: for images of 3 x 24 x 24 '):
        model.optimize_parameters(1)
    if name == 'OfOneChannel':  # the other one is as it should be in testing
        model.lq, model.noise_level = batch(1)['lq'][0], None
        with pytest.raises(InputError, match='the network first gives 1 x 24 x 24[.]'):
            model.test()


@every_network
def test_the_log_has_the_loss_of_each_degradation(name, build):
    model = build(name, accumulate=2)
    data = batch(2)
    data['gt'][:, 1] = data['lq'][:, 1]
    model.feed_data(data)
    model.optimize_parameters(1)
    log = model.log_dict
    assert (log['l_pix_noise'] + log['l_pix_rain']) / 2 == pytest.approx(log['l_pix'], rel=1e-5)
    assert log['l_pix_noise'] != pytest.approx(log['l_pix_rain'], rel=1e-3)


def test_ffdnet_is_told_the_noise_of_each_picture_in_training_and_validation(tmp_path, paper_datasets, monkeypatch):
    monkeypatch.chdir(paper_datasets)
    opt = options('FFDNet', tmp_path, accumulate=2, ema_decay=0)
    opt['network_g'] |= {'num_feat': 8, 'num_layer': 3, 'sigma': 70}
    opt.update(dist=False, is_train=True, rank=0, world_size=1)
    noise = opt['datasets']['train']['degradations']['noise']
    noise.update(sigma=[5, 50], protocol='float')
    torch.manual_seed(0)
    model = build_model(opt)
    maps = []
    model.net_g.model[0].register_forward_pre_hook(lambda _, inputs: maps.append(inputs[0][:, -1]))
    dataset = build_dataset({**opt['datasets']['train'], 'phase': 'train'})
    model.feed_data(default_collate([dataset[i] for i in range(3)]))
    model.optimize_parameters(1)
    told = 255 * torch.cat(maps)  # B x H/2 x W/2 of each half of the batch
    assert len(maps) == 2 and (told == told[:, :1, :1]).all()
    spread = 255 * (model.lq - model.gt).flatten(1).std(1)
    torch.testing.assert_close(told[::2, 0, 0], spread[::2], rtol=0.1, atol=0)
    assert (told[1::2] - 70).abs().max() < 1e-4  # pairs say nothing: the network's own

    maps.clear()
    for level in (10, 40):
        degradation = {**opt['datasets']['val']['degradation'], 'sigma': level}
        tested = build_dataset({**opt['datasets']['val'], 'degradation': degradation, 'phase': 'val'})
        model.feed_data(default_collate([tested[0]]))
        model.test()
    assert [float(255 * each.mean()) for each in maps] == pytest.approx([10, 40])
    # A dataset of BasicSR's says nothing either.
    model.feed_data({'lq': model.lq, 'gt': model.gt})
    model.test()
    assert float(255 * maps[-1].mean()) == pytest.approx(70)


def test_warm_up_and_cosine_are_torch_s(build):
    model = build('NAFNet', scheduler={'type': 'WarmupCosineLR', 'warmup': 4, 'eta_min': 1e-5})
    found = []
    for iteration in range(1, 13):
        model.update_learning_rate(iteration)
        found += model.get_current_learning_rate()
        model.optimizer_g.step()
    reference = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.001)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(reference, 8, eta_min=1e-5)
    expected = []
    for _ in range(8):
        expected.append(reference.param_groups[0]['lr'])
        reference.step()
        cosine.step()
    assert found == pytest.approx([0.00025, 0.0005, 0.00075, 0.001, *expected])


@MODEL_REGISTRY.register()
class WithOwnKeys(RestorationModel):
    TRAIN_KEYS = RestorationModel.TRAIN_KEYS | {'halve'}
    LOGGER_KEYS = RestorationModel.LOGGER_KEYS | {'note'}

    def losses(self, part):
        losses, figures = super().losses(part)
        return {name: loss * self.opt['train']['halve'] for name, loss in losses.items()}, figures


def test_a_subclass_adds_keys(tmp_path, paper_datasets, monkeypatch):
    monkeypatch.chdir(paper_datasets)
    opt = options('NAFNet', tmp_path, halve=0.5, ema_decay=0)
    opt.update(dist=False, is_train=True, rank=0, world_size=1, model_type='WithOwnKeys')
    opt['logger']['note'] = 'mine'
    build_model(copy.deepcopy(opt))
    with pytest.raises(InputError, match='train: unknown key `halve`'):
        build_model({**copy.deepcopy(opt), 'model_type': 'RestorationModel'})
    del opt['train']['halve']
    with pytest.raises(InputError, match='logger: unknown key `note`'):
        build_model({**opt, 'model_type': 'RestorationModel'})


# ---- Which network is kept ----


@pytest.mark.parametrize('better', ['higher', 'lower'])
def test_keep_best_follows_better(run, tmp_path, said, better):
    opt = options('NAFNet', tmp_path, total_iter=6, ema_decay=0)
    opt['val'] = {'val_freq': 2, 'save_img': False, 'metrics': {'psnr': opt['val']['metrics']['psnr']}}
    opt['val']['metrics']['psnr']['better'] = better
    opt['logger']['keep_best'] = 'psnr'
    run(opt)
    lines = said()
    values = [float(value) for value in re.findall(r'# psnr: ([\d.]+)', lines)]
    best = [float(value) for value in re.findall(r'best mean psnr so far, ([\d.]+)', lines)]
    assert len(set(values)) > 1
    assert best[-1] == (max if better == 'higher' else min)(values)
    network = build_network(opt['network_g'])
    path = tmp_path / 'experiments/run/models/net_g_best_psnr.pth'
    network.load_state_dict(torch.load(path, weights_only=True)['params'])


def test_a_checkpoint_that_cannot_be_removed_is_only_said(tmp_path, said):
    """A folder in its place cannot be unlinked, whoever runs the test."""
    (tmp_path / '1.state').mkdir()
    (tmp_path / '2.state').touch()
    prune(str(tmp_path), str(tmp_path), keep_last=1)
    assert 'The checkpoint of iteration 1 cannot be removed' in said()


def test_the_best_is_judged_by_all_validation_sets():
    opt = {'logger': {'keep_best': 'psnr'}, 'val': {'metrics': {'psnr': {}}}}
    best = BestNetwork({**opt, 'datasets': dict.fromkeys(('train', 'val_1', 'val_2'), {})})
    means = (('val_1', 30), ('val_2', 20), ('val_1', 40), ('val_2', 9))
    assert [best.improved(name, {'psnr': value}) for name, value in means] == [False, True, False, False]
    assert best.mean == 25


def test_a_mean_that_is_no_number_is_never_the_best():
    opt = {'logger': {'keep_best': 'psnr'}, 'val': {'metrics': {'psnr': {}}}, 'datasets': {'val': {}}}
    best = BestNetwork(opt)
    assert [best.improved('val', {'psnr': value}) for value in (math.nan, 20, math.nan, 21, 19)] == [0, 1, 0, 1, 0]
    assert best.mean == 21


def test_items_without_a_key_are_refused_by_name(run, tmp_path):
    opt = options('AirNet', tmp_path)
    opt['datasets']['train']['contrastive'] = False
    with pytest.raises(InputError, match='datasets:train: its items have no key.*without `contrastive: false`'):
        run(opt)
