"""Repairs of BasicSR, each by what it does for a user of BasicSR."""

import copy
import shutil
import sys

import pytest
import torch

import airnet_basicsr.plugin  # noqa: F401  (a spawned worker imports this module without conftest)

# ruff: isort: split
from basicsr.archs import build_network
from basicsr.models.base_model import BaseModel
from basicsr.utils import FileClient
from conftest import write_lmdb
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from airnet_basicsr.errors import InputError
from basicsr.train import init_tb_loggers


def test_average_of_the_network_covers_batchnorm_statistics():
    torch.manual_seed(0)
    model = BaseModel({'num_gpu': 0, 'is_train': True})
    model.net_g = build_network({'type': 'AirNet', 'num_feat': 8, 'num_group': 1, 'num_block': 1})
    model.net_g_ema = copy.deepcopy(model.net_g)
    reference = AveragedModel(model.net_g, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    reference.update_parameters(model.net_g)  # its first call copies
    for _ in range(5):
        with torch.no_grad():
            for parameter in model.net_g.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
            model.net_g(torch.rand(2, 3, 16, 16), encode=True)
        model.model_ema(0.9)
        reference.update_parameters(model.net_g)
    names = [name for name, tensor in model.net_g_ema.state_dict().items() if tensor.is_floating_point()]
    assert any('running_var' in name for name in names)
    for name in names:
        torch.testing.assert_close(model.net_g_ema.state_dict()[name], reference.module.state_dict()[name])
    assert model.net_g_ema.encoder.blocks[0].body[1].num_batches_tracked == 5


class FromLmdb(Dataset):
    """Reads as BasicSR's datasets do: a file client of its own, opened at the first reading."""

    def __init__(self, path):
        self.path, self.client = str(path), None

    def __len__(self):
        return 4

    def __getitem__(self, index):
        self.client = self.client or FileClient('lmdb', db_paths=[self.path, self.path], client_keys=['gt', 'lq'])
        assert self.client.get('coffee2', 'gt') == self.client.get('coffee2', 'lq')
        return len(self.client.get('coffee2', 'gt'))


def test_datasets_share_one_lmdb_also_in_workers(tmp_path, photos):
    path = write_lmdb(tmp_path / 'photos.lmdb', photos)
    first, second = FromLmdb(path), FromLmdb(path)
    assert first[0] == second[0] > 0
    unopened = FromLmdb(path)  # what a spawned process gets must be picklable
    # One worker is spawned: each takes as long to start as a program.
    for dataset, context, workers in ((first, 'fork', 2), (FromLmdb(path), 'fork', 2), (unopened, 'spawn', 1)):
        loaded = list(DataLoader(dataset, num_workers=workers, multiprocessing_context=context))
        assert [int(length) for length in loaded] == [second[0]] * 4


def test_an_lmdb_that_was_written_anew_is_read_anew(tmp_path, photos):
    def read(client=None):
        client = client or FileClient('lmdb', db_paths=[str(tmp_path / 'x.lmdb')], client_keys=['gt'])
        return client, client.get('a', 'gt')

    write_lmdb(tmp_path / 'x.lmdb', {'a': photos['coffee2']})
    old, before = read()
    shutil.rmtree(tmp_path / 'x.lmdb')
    write_lmdb(tmp_path / 'x.lmdb', {'a': photos['coffee3']})
    new, after = read()
    assert after != before and read(old)[1] == before and read(new)[1] == after


def test_wandb_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(InputError, match='logger:wandb:project: wandb is not installed'):
        init_tb_loggers({'name': 'run', 'logger': {'use_tb_logger': True, 'wandb': {'project': 'restoration'}}})
