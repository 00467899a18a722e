"""Continuing from a trained network: the encoder, or what the restorer sees of it, left as it is; and Muon."""

import copy

import pytest
import torch
from conftest import run_python
from small_run import write_options
from torch import nn
from torch.nn import functional as F

from airnet_basicsr.network.airnet import AirNet
from airnet_basicsr.plugin.models.muon import MuonAdam, convolutions

FINISH = """
plugin: !!python/name:airnet_basicsr.plugin.__name__ ''
base: !base run.yml
name: finish
path: {pretrain_network_g: experiments/run/models/net_g_latest.pth}
train:
  freeze_encoder: true
  encoder_warmup_iter: 0
  optim_g: {type: Muon}
  ema_decay: 0
  total_iter: 20
"""


def train(folder, file, *arguments):
    return run_python('-m', 'airnet_basicsr.train', '-opt', file, *arguments, cwd=folder, OMP_NUM_THREADS='1')


@pytest.fixture
def folder(tmp_path, paper_datasets):
    """A working directory with the options of a training run and of one that continues it."""
    (tmp_path / 'datasets').symlink_to(paper_datasets / 'datasets')
    write_options(tmp_path, total_iter=10)
    (tmp_path / 'finish.yml').write_text(FINISH)
    return tmp_path


def network(folder, name):
    return torch.load(folder / f'experiments/{name}/models/net_g_latest.pth', weights_only=True)['params']


def assert_resumes_to(after, folder):
    """The second half of the run, done again from its training state, gives the same network."""
    experiment = folder / 'experiments/finish'
    for part in ('models/net_g_latest.pth', 'models/net_g_14.pth', 'training_states/14.state'):
        (experiment / part).unlink()
    done = train(folder, 'finish.yml', '--auto_resume')
    assert done.returncode == 0 and 'iter: 7' in done.stdout, done.stdout[-3000:]
    again = network(folder, 'finish')
    assert all(torch.equal(after[name], again[name]) for name in after)


def test_a_frozen_encoder_stays_as_it_was_and_a_resumed_run_ends_alike(folder):
    done = train(folder, 'run.yml')
    assert done.returncode == 0, done.stdout[-3000:]
    done = train(folder, 'finish.yml')
    assert done.returncode == 0, done.stdout[-3000:]
    assert 'l_pix' in done.stdout and 'l_contrast' not in done.stdout
    before, after = network(folder, 'run'), network(folder, 'finish')
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith('encoder.')}  # BatchNorm statistics too

    assert_resumes_to(after, folder)


def test_what_the_restorer_does_not_see_can_be_trained_alone(folder):
    """By the kinds of degradation, whose labels a resumed run must know."""
    assert train(folder, 'run.yml').returncode == 0
    options = FINISH.replace('freeze_encoder: true', 'freeze_encoder: z\n  contrast_opt: {positives: kind}')
    (folder / 'finish.yml').write_text(options.replace('{type: Muon}', '{type: Adam, lr: 0.001}'))
    done = train(folder, 'finish.yml')
    assert done.returncode == 0 and 'l_contrast' in done.stdout and 'l_pix' not in done.stdout, done.stdout[-3000:]
    before, after = network(folder, 'run'), network(folder, 'finish')
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith(('encoder.blocks.0.', 'restorer.'))}

    assert_resumes_to(after, folder)


@pytest.mark.parametrize(
    ('line', 'by', 'message'),
    [
        ('path: {', 'other: {', 'path:pretrain_network_g must name a trained network'),
        ('encoder_warmup_iter: 0', 'encoder_warmup_iter: 5', 'no warm-up for an encoder that is frozen'),
    ],
)
def test_a_frozen_encoder_must_have_been_trained_before(folder, line, by, message):
    assert line in FINISH
    (folder / 'finish.yml').write_text(FINISH.replace(line, by))
    done = train(folder, 'finish.yml')
    assert done.returncode == 1 and message in done.stdout and 'Traceback' not in done.stdout, done.stdout


def test_muon_steps_convolutions_and_adam_the_rest_at_the_same_rate():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3), nn.Linear(4, 5))
    reference = copy.deepcopy(net)
    optimizer = MuonAdam(net.parameters(), convolutions(net), lr=0.02)
    matrix = nn.Parameter(reference[1].weight.detach().flatten(1).clone())
    muon = torch.optim.Muon([matrix], lr=0.02, weight_decay=0, adjust_lr_fn='match_rms_adamw')
    adam = torch.optim.Adam([p for p in reference.parameters() if p is not reference[1].weight], lr=0.02)
    for step in range(3):
        for optimizers in (optimizer, muon, adam):
            optimizers.param_groups[0]['lr'] = 0.02 / (step + 1)
        x = torch.rand(2, 3, 8, 8)
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()
        muon.zero_grad()
        adam.zero_grad()
        out = F.conv2d(reference[0](x), matrix.view(32, 16, 3, 3), reference[1].bias)
        reference[2](out).square().sum().backward()
        muon.step()
        adam.step()
        assert torch.allclose(net[1].weight.flatten(1), matrix, atol=1e-6)
        assert torch.allclose(net[0].weight, reference[0].weight, atol=1e-6)
        assert torch.allclose(net[2].weight, reference[2].weight, atol=1e-6)


def test_muon_takes_the_convolutions_between_features():
    net = AirNet(num_feat=16, num_group=1, num_block=1)
    net.encoder.requires_grad_(False)
    chosen = {name for name, parameter in net.named_parameters() if any(parameter is p for p in convolutions(net))}
    assert {'restorer.conv.weight', 'restorer.groups.0.blocks.0.dgm1.dcn.weight'} <= chosen
    left_out = ('encoder', 'restorer.head', 'restorer.tail', 'offset', 'bias')
    assert not any(part in name for part in left_out for name in chosen)


def test_muon_steps_weights_in_channels_last_format_alike():
    nets = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        net = torch.nn.Conv2d(16, 16, 3).to(memory_format=memory_format)
        optimizer = MuonAdam(net.parameters(), convolutions(net), lr=0.02)
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.randn(1, 16, 8, 8)).square().sum().backward()
            optimizer.step()
        nets.append(net)
    assert nets[1].weight.is_contiguous(memory_format=torch.channels_last)
    # Muon's own products are in bfloat16, and their sums in another order.
    torch.testing.assert_close(*(net.weight for net in nets), rtol=0, atol=2e-3)
