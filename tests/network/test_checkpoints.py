"""Checkpoint files: the release's of any queue length, ours, and files that must be refused."""

import json
import pickle
import zipfile

import mutated_checkpoints
import numpy as np
import pytest
import safetensors
import torch
from golden import official_checkpoint
from small_models import save, small_network

from airnet_basicsr import Restorer
from airnet_basicsr.errors import InputError
from airnet_basicsr.network import model_files
from airnet_basicsr.network.airnet import AirNet
from airnet_basicsr.network.checkpoints import (
    Checkpoint,
    load_strictly,
    preferred_network,
    read_checkpoint,
    to_official,
    understand,
    write_checkpoint,
)
from airnet_basicsr.network.momentum_contrast import MomentumContrast
from airnet_basicsr.network.tensor_files import flattened
from airnet_basicsr.plugin.models.restoration_model import RestorationModel
from airnet_basicsr.restore.explain import fit


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


def test_a_tensor_with_hooks_is_refused():
    """A pickle can put anything there, and saving it again would run into it."""
    state = small_network().state_dict()
    name = next(iter(state))
    state[name]._backward_hooks = int
    with pytest.raises(InputError, match=f'{name} has hooks'):
        understand({'params': state}, {}, 'the file')


def _lightning(state):
    return {
        'state_dict': {**{f'net.{name}': t for name, t in state.items()}, 'loss.weight': torch.zeros(2)},
        'pytorch-lightning_version': '2.4',
        'hyper_parameters': {'lr': 1e-4},
        'optimizer_states': [{'state': {0: {'exp_avg': torch.zeros(2)}}}],
    }


def _averaged(state):
    module = {f'module.{name}': torch.full_like(t, 7) for name, t in state.items()}
    return {
        'model': {**module},
        'model_ema': {'n_averaged': torch.tensor(3), **{f'module.{n}': t for n, t in state.items()}},
    }


WRAPPINGS = {
    'DataParallel': lambda state: {f'module.{name}': t for name, t in state.items()},
    'torch.compile': lambda state: {'params': {f'_orig_mod.{name}': t for name, t in state.items()}},
    'a compiled part': lambda state: {
        n.replace('restorer.', 'restorer._orig_mod.').replace('R.', 'R._orig_mod.'): t for n, t in state.items()
    },
    'both': lambda state: {'net': {f'module._orig_mod.{name}': t for name, t in state.items()}},
    'Lightning': _lightning,
    'an average': _averaged,
    'two wrappers': lambda state: {'checkpoint': {'model': {f'net_g.{n}': t for n, t in state.items()}}, 'epoch': 3},
}


@pytest.mark.parametrize('names', ['ours', 'official'])
@pytest.mark.parametrize('wrapping', WRAPPINGS)
def test_every_command_takes_every_wrapping(tmp_path, wrapping, names):
    net = small_network(unshuffle=2) if names == 'ours' else small_network()
    state = dict(net.state_dict())
    contrast = dict(MomentumContrast(net.encoder, queue_size=512, momentum=0.9).state_dict())
    content = WRAPPINGS[wrapping](to_official(state, contrast) if names == 'official' else state)
    path = tmp_path / 'wrapped.ckpt'
    torch.save(content, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.official == (names == 'official')
    for name, tensor in preferred_network(checkpoint).items():
        assert torch.equal(tensor, state[name]), name
    assert (checkpoint.contrast is not None) == (names == 'official')
    photo = np.random.default_rng(0).integers(256, size=(24, 32, 3), dtype=np.uint8)
    expected = Restorer(save(net, tmp_path / 'plain.pth'))(photo)
    model_files.convert(str(path), str(tmp_path / 'ours.pth'), 'ours')
    model_files.slim(str(path), str(tmp_path / 'slim.safetensors'))
    assert any('num_feat=16' in line for line in model_files.info(str(path)))
    for written in (path, tmp_path / 'ours.pth', tmp_path / 'slim.safetensors'):
        assert np.abs(Restorer(written)(photo).astype(int) - expected).max() <= 1
    loaded = AirNet(num_feat=16, num_group=1, num_block=1, unshuffle=2 if names == 'ours' else 1)
    model = object.__new__(RestorationModel)
    model.is_train = True
    model.opt = {'dist': False}
    model.load_network(loaded, str(path), param_key='params_ema')
    assert torch.equal(loaded.restorer.tail.weight, net.restorer.tail.weight)


def test_another_network_loads_from_below_a_prefix(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
    torch.save({'state_dict': {f'net.{name}': t for name, t in net.state_dict().items()}}, tmp_path / 'other.ckpt')
    loaded = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
    load_strictly(loaded, read_checkpoint(tmp_path / 'other.ckpt').networks['params'], 'other.ckpt')
    assert torch.equal(loaded[1].weight, net[1].weight)


def zip_of(path, **members):
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content in members.items():
            archive.writestr(name.replace('__', '/').replace('_', '.'), content)


def test_what_a_file_is_instead_is_said(tmp_path):
    state = small_network().state_dict()
    texts = {
        'page.pth': b'<!DOCTYPE html><html><title>Google Drive - Virus scan\n warning</title></html>',
        'lfs.pth': b'version https://git-lfs.github.com/spec/v1\noid sha256:aa\nsize 1234\n',
        'train.pth': b'name: train\nnum_gpu: 1\n',
        'zeros.pth': bytes(5000),
        'empty.pth': b'',
        'picture.pth': b'\x89PNG\r\n\x1a\n',
    }
    for name, content in texts.items():
        (tmp_path / name).write_bytes(content)
    torch.save(torch.nn.Linear(2, 2), tmp_path / 'module.pth')
    torch.save({'params': {**state, 'x': 'text'}}, tmp_path / 'odd.pth')
    torch.save({'iter': 40, 'epoch': 1, 'optimizers': [], 'schedulers': []}, tmp_path / '40.state')
    torch.save([torch.zeros(2)], tmp_path / 'list.pth')
    save(small_network(), tmp_path / 'cut.pth')
    content = (tmp_path / 'cut.pth').read_bytes()
    (tmp_path / 'cut.pth').write_bytes(content[:-5000])
    place = content.index(state['restorer.head.weight'].numpy().tobytes())
    (tmp_path / 'flipped.pth').write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    zip_of(tmp_path / 'packed.pth', All_pth=content)
    zip_of(tmp_path / 'script.pth', x__constants_pkl=b'', x__data_pkl=b'')
    torch.save({'params': {name: t.to_sparse() for name, t in state.items()}}, tmp_path / 'sparse.pth')
    torch.save({'params': {name: t.to(torch.int8) for name, t in state.items()}}, tmp_path / 'int8.pth')
    (tmp_path / 'folder.pth').mkdir()
    told = {
        'page.pth': r'a web page \("Google Drive - Virus scan warning"\)',
        'lfs.pth': 'a Git LFS pointer.*git lfs pull',
        'train.pth': "a text file, which begins with 'name: train'",
        'zeros.pth': 'nothing but zeros',
        'empty.pth': '0 bytes',
        'picture.pth': 'a PNG picture',
        'module.pth': r'holds Python objects \(torch.nn.modules.linear.Linear\).*save only the state_dict',
        'odd.pth': 'x is a str, not a tensor',
        '40.state': 'the state of a training run.*net_g_40.pth',
        'list.pth': 'holds no network but a list',
        'cut.pth': 'is damaged, perhaps cut short',
        'flipped.pth': 'is damaged',
        'packed.pth': 'a ZIP archive without a network of PyTorch .it holds All.pth.: unpack it',
        'script.pth': 'a TorchScript archive',
        'sparse.pth': 'cannot be used here .sparse_coo',
        'int8.pth': 'holds int8 instead of float32',
        'folder.pth': 'is a folder',
    }
    for name, what in told.items():
        with pytest.raises(InputError, match=f'(?s){name}.*{what}') as error:
            model_files.info(str(tmp_path / name))
        assert 'weights_only' not in str(error.value)


def test_safetensors_hold_all_that_our_files_hold(tmp_path):
    net = small_network(unshuffle=2, image_residual=True)
    state = dict(net.state_dict())
    contrast = dict(MomentumContrast(net.encoder, queue_size=512, momentum=0.9).state_dict())
    reference = fit({name: torch.randn(20, 64) for name in ('noise0.5', 'clean')})
    reference['noise0.5'].update(patch_size=torch.tensor(16), sigma=torch.tensor(0.5))
    reference['clean'].update(patch_size=torch.tensor(16))
    written = Checkpoint({'params': state, 'params_ema': state}, contrast, reference, facts={'licence': 'Apache-2.0'})
    write_checkpoint(tmp_path / 'all.safetensors', written, {'architecture': 'AirNet'})
    found = read_checkpoint(tmp_path / 'all.safetensors')
    assert found.facts == {'licence': 'Apache-2.0'} and not found.official
    for before, after in zip(written[:3], found[:3], strict=True):
        before, after = dict(flattened(before)), dict(flattened(after))
        assert before.keys() == after.keys()
        for name, tensor in before.items():
            assert tensor.dtype == after[name].dtype and torch.equal(tensor, after[name]), name
    # A single network lies under its own names, and the metadata say what other programs need to know.
    model_files.main(['slim', str(tmp_path / 'all.safetensors'), '--fact', 'data=BSD400'])
    with safetensors.safe_open(tmp_path / 'all_slim.safetensors', 'pt') as file:
        assert 'restorer.head.weight' in file.keys() and 'reference.noise0.5.mean' in file.keys()  # noqa: SIM118
        metadata = file.metadata()
    assert metadata['architecture'] == 'AirNet' and metadata['data'] == 'BSD400' and metadata['format'] == 'pt'
    assert AirNet(**json.loads(metadata['options'])).state_dict().keys() == state.keys()
    lines = model_files.info(str(tmp_path / 'all_slim.safetensors'))
    assert {'licence: Apache-2.0', 'data: BSD400', 'explains: clean, noise0.5'} <= set(lines)
    content = bytearray((tmp_path / 'all_slim.safetensors').read_bytes())
    content[-3] ^= 1
    (tmp_path / 'flipped.safetensors').write_bytes(content)
    with pytest.raises(InputError, match='flipped.safetensors is damaged: its tensors are not those'):
        read_checkpoint(tmp_path / 'flipped.safetensors')


def test_extras_that_do_not_fit_are_named(tmp_path):
    net = small_network()
    contrast = dict(MomentumContrast(net.encoder, queue_size=512, momentum=0.9).state_dict())
    del contrast['queue']
    torch.save({'params': net.state_dict(), 'contrast': contrast}, tmp_path / 'x.pth')
    with pytest.raises(InputError, match='x.pth: the queue of its contrastive part is missing'):
        read_checkpoint(tmp_path / 'x.pth')
    torch.save({'params': net.state_dict(), 'reference': {'rain': {'patch_size': torch.tensor(8)}}}, tmp_path / 'y.pth')
    with pytest.raises(InputError, match='y.pth: its reference embeddings are damaged .rain: embeddings are missing'):
        read_checkpoint(tmp_path / 'y.pth')


def test_no_mutant_gets_through():
    assert mutated_checkpoints.main(25, seed=7) == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_mutant_of_many_gets_through():
    assert mutated_checkpoints.main(3000, seed=0) == 0
