"""``path: resume_state``: a state of this run with its network, or a line that says what it is instead."""

import shutil

import pytest
import torch

import basicsr.train
from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.models.training_state import digest

STATE = {'epoch': 1, 'iter': 7, 'optimizers': [], 'schedulers': []}


@pytest.fixture
def resumed(tmp_path):
    """Loads a state as training does, of a run with one checkpoint; gives the options too."""
    run = tmp_path / 'experiments/run'
    for name in ('models', 'training_states'):
        (run / name).mkdir(parents=True)
    torch.save({'params': {'weight': torch.ones(3)}}, run / 'models/net_g_7.pth')
    state = {**STATE, 'network_digest': digest(run / 'models/net_g_7.pth')}
    torch.save(state, run / 'training_states/7.state')

    def load(path, auto_resume=False, name='run'):
        experiment = tmp_path / 'experiments' / name
        paths = {'models': str(experiment / 'models'), 'training_states': str(experiment / 'training_states')}
        opt = {'path': {'resume_state': path and str(tmp_path / path), **paths}, 'network_g': {}}
        opt |= {'rank': 0, 'world_size': 1, 'auto_resume': auto_resume}
        return basicsr.train.load_resume_state(opt), opt

    return load


def test_the_state_of_the_run(resumed, tmp_path):
    for auto_resume in (False, True):
        state, opt = resumed('experiments/run/training_states/7.state', auto_resume)
        assert state['iter'] == 7
        assert opt['path']['pretrain_network_g'] == str(tmp_path / 'experiments/run/models/net_g_7.pth')


def test_a_state_that_is_named_counts_where_there_is_none_to_find(resumed, tmp_path):
    shutil.move(tmp_path / 'experiments/run/training_states/7.state', tmp_path / 'kept.state')
    assert resumed(None, auto_resume=True)[0] is None
    assert resumed('kept.state', auto_resume=True)[0]['iter'] == 7


@pytest.mark.parametrize(
    ('path', 'name', 'message'),
    [
        ('experiments/run/models/net_g_7.pth', 'run', 'net_g_7.pth is no training state'),
        ('experiments/run/training_states/8.state', 'run', 'there is no file .*8.state'),
        ('experiments/run/training_states', 'run', 'there is no file .*training_states'),
        ('experiments/run/training_states/7.state', 'other', 'experiments/other/models/net_g_7.pth is missing'),
        ('text', 'run', 'text is damaged or holds more than plain data'),
        ('list.pth', 'run', 'list.pth is damaged or holds more than plain data'),
    ],
)
def test_what_is_none_is_said(resumed, tmp_path, path, name, message):
    (tmp_path / 'text').write_text('state')
    torch.save([1], tmp_path / 'list.pth')
    with pytest.raises(InputError, match=f'option path:resume_state: .*{message}'):
        resumed(path, name=name)


def test_the_network_of_another_training_run(resumed, tmp_path):
    torch.save({'params': {'weight': torch.zeros(3)}}, tmp_path / 'experiments/run/models/net_g_7.pth')
    with pytest.raises(InputError, match='net_g_7.pth is damaged or not the one saved with 7.state'):
        resumed('experiments/run/training_states/7.state')
