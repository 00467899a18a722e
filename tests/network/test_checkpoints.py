"""Checkpoint files: the release's of any queue length, ours, and files that must be refused."""

import pickle

import pytest
import torch
from golden import official_checkpoint

from airnet_basicsr.errors import InputError
from airnet_basicsr.network.airnet import AirNet
from airnet_basicsr.network.checkpoints import load_strictly, read_checkpoint


@pytest.fixture(scope='module')
def official():
    return official_checkpoint()


@pytest.mark.parametrize('queue_size', [1280, 768, 256])
def test_official_files_of_any_queue_length_fill_every_tensor(tmp_path, official, queue_size):
    state = {f'module.{name}': tensor for name, tensor in official.items()}  # as DataParallel saves
    state['module.E.E.queue'] = state['module.E.E.queue'][:, :queue_size]
    torch.save(state, tmp_path / 'Rain.pth')
    checkpoint = read_checkpoint(tmp_path / 'Rain.pth')
    assert len(checkpoint.networks['params']) + len(checkpoint.contrast) == len(official) == 584
    assert checkpoint.contrast['queue'].shape == (256, queue_size)
    net = AirNet()
    load_strictly(net, checkpoint.networks['params'], 'Rain.pth')
    assert torch.equal(net.restorer.groups[3].conv.bias, official['R.body.3.body.5.bias'])
    assert torch.equal(net.restorer.conv.weight, official['R.body.5.weight'])
    key = checkpoint.contrast['key_encoder.blocks.2.shortcut.1.running_var']
    assert torch.equal(key, official['E.E.encoder_k.E.1.shortcut.1.running_var'])


def test_missing_tensors_are_named(tmp_path, official):
    state = dict(official)
    del state['R.body.1.body.2.dgm1.dcn.weight'], state['R.tail.0.bias']
    torch.save(state, tmp_path / 'All.pth')
    net = AirNet()
    before = net.restorer.head.weight.clone()
    with pytest.raises(InputError) as error:
        load_strictly(net, read_checkpoint(tmp_path / 'All.pth').networks['params'], tmp_path / 'All.pth')
    message = str(error.value)
    assert 'All.pth' in message and '2 of' in message
    assert 'restorer.groups.1.blocks.2.dgm1.dcn.weight is missing' in message and 'restorer.tail.bias' in message
    assert torch.equal(net.restorer.head.weight, before)


def test_a_file_of_another_network_is_refused(tmp_path):
    torch.save({'params': torch.nn.Linear(2, 2).state_dict()}, tmp_path / 'other.pth')
    with pytest.raises(InputError, match='other.pth does not fit the network AirNet.*options of network_g'):
        load_strictly(AirNet(), read_checkpoint(tmp_path / 'other.pth').networks['params'], tmp_path / 'other.pth')


class Harm:
    """Runs code when unpickled: the kind of file that must not be loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    (tmp_path / 'text.pth').write_text('not a checkpoint')
    (tmp_path / 'empty.pth').touch()
    torch.save({'params': torch.zeros(3), 'epoch': 1}, tmp_path / 'plain.pth')
    torch.save({'params': {'a': Harm(tmp_path / 'harm')}}, tmp_path / 'harmful.pth')
    (tmp_path / 'harmful.pkl').write_bytes(pickle.dumps(Harm(tmp_path / 'harm')))
    for name in ('text.pth', 'empty.pth', 'plain.pth', 'harmful.pth', 'harmful.pkl', 'none.pth'):
        with pytest.raises(InputError, match=name):
            read_checkpoint(tmp_path / name)
    assert not (tmp_path / 'harm').exists()
