"""The shipped option files against the facts of the paper and the release."""

import pytest
import torch
from basicsr.models.lr_scheduler import MultiStepRestartLR
from conftest import ROOT

from airnet_basicsr.options import load_options


def released_rate(epoch: int) -> float:
    """The learning rate that the release sets after epoch ``epoch`` (0-based) has ended."""
    return 1e-3 * 0.1 ** (epoch // 60) if epoch <= 100 else 1e-4 * 0.5 ** ((epoch - 100) // 125)


def test_learning_rate_of_every_epoch_is_the_release_s():
    train = load_options(ROOT / 'options/train_airnet_aio.yml')['train']
    train['scheduler'].pop('type')
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=train['optim_g']['lr'])
    scheduler = MultiStepRestartLR(optimizer, **train['scheduler'])
    rates = {}
    for iteration in range(1, 600_001):  # the paper's length; the toolbox steps before each but the first
        if iteration > 1:
            scheduler.last_epoch += 1
            if scheduler.last_epoch in scheduler.milestones or scheduler.last_epoch in scheduler.restarts:
                for group, rate in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
                    group['lr'] = rate
        if iteration % 400 in (1, 0):
            rates[iteration] = optimizer.param_groups[0]['lr']
    assert rates[1] == rates[400] == 1e-3
    for epoch in range(1, 1500):
        for iteration in (400 * epoch + 1, 400 * epoch + 400):
            assert rates[iteration] == pytest.approx(released_rate(epoch - 1)), iteration
