"""What is wrong with an option file is said before anything begins; what is the user's own stays possible."""

import json
import sys

import pytest
import yaml
from basicsr.utils.options import parse_options
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY
from conftest import ROOT, run_python
from small_run import write_options
from torch import nn

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.models import AirNetModel
from airnet_basicsr.plugin.option_page import json_schema, page
from airnet_basicsr.plugin.options import load_options

TEST = """
name: tested
model_type: AirNetModel
num_gpu: 0
plugin: !!python/name:airnet_basicsr.plugin.__name__ ''
datasets:
  test_1: {name: a, type: PairedImageDataset, dataroot_gt: a, dataroot_lq: b, io_backend: {type: disk}}
network_g: {type: AirNet}
path: {}
val: {save_img: false, metrics: {psnr: {type: calculate_psnr, crop_border: 0}}}
"""


@pytest.fixture
def parsed(tmp_path, monkeypatch):
    """What BasicSR's program gets of the small training run's file, with changes on the command line."""

    def parse(*force, path=None, is_train=True):
        path = path or write_options(tmp_path)
        monkeypatch.setattr(sys, 'argv', ['train.py', '-opt', str(path), *(['--force_yml', *force] if force else [])])
        return parse_options(str(tmp_path), is_train)[0]

    return parse


def test_numbers_without_a_point_are_numbers_where_one_is_wanted(parsed, tmp_path):
    path = write_options(
        tmp_path, name='1e4', lr='1e-4', manual_seed='1e3', gamma='5e-1', num_feat='2e1', crop_border='0e0'
    )
    path.write_text(path.read_text().replace('milestones: [20, 30]', 'milestones: [2e1, 1e5]'))
    path.write_text(path.read_text().replace('loss_weight: 0.1', 'loss_weight: 1e-1'))
    opt = parsed('train:ema_decay=9e-1', 'train:warmup_iter=-1', path=path)
    train = opt['train']
    assert train['optim_g']['lr'] == 1e-4 and train['scheduler'] == {
        'type': 'MultiStepLR',
        'milestones': [20, 100_000],
        'gamma': 0.5,
    }
    assert (opt['manual_seed'], opt['network_g']['num_feat'], train['ema_decay'], train['warmup_iter']) == (
        1000,
        20,
        0.9,
        -1,
    )
    assert train['contrast_opt']['loss_weight'] == 0.1 and opt['val']['metrics']['psnr']['crop_border'] == 0
    assert opt['name'] == '1e4' and opt['datasets']['train']['name'] == '1e4'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ('train:optim_g:lr=fast', "option train:optim_g:lr: expected a number from 0, found 'fast'"),
        ('train:optim_g:type=Adamm', "option train:optim_g:type: there is no 'Adamm'. Did you mean `Adam`?"),
        ('train:optim_g:momentums=1', 'option train:optim_g: unknown key `momentums`.'),
        ('train:optim_g:betas=[0.9]', 'option train:optim_g:betas: expected a list of 2 numbers from 0 to 1'),
        ('train:scheduler:type=Cosine', "option train:scheduler:type: there is no 'Cosine'."),
        ('train:scheduler:restarts=[0, 5]', 'option train:scheduler: restarts and their weights do not match'),
        ('train:scheduler:milestones=5', 'option train:scheduler:milestones: expected a list of whole numbers from 0'),
        ('train:total_iter=0', 'option train:total_iter: expected a whole number from 1, found 0'),
        ('train:total_iter=1.5', 'option train:total_iter: expected a whole number from 1, found 1.5'),
        ('train:queue_sise=3', 'option train: unknown key `queue_sise`. Did you mean `queue_size`?'),
        ('train:pixel_opt:reduction=none', 'option train:pixel_opt:reduction: expected `mean` or `sum`, found None'),
        ('train:pixel_opt:type=L3Loss', "option train:pixel_opt:type: there is no 'L3Loss'. Did you mean `L1Loss`?"),
        ('train:contrast_opt:temprature=1', 'option train:contrast_opt: unknown key `temprature`. Did you mean'),
        ('num_gpu=99', 'option num_gpu: 99, but PyTorch sees'),
        ('num_gpu=all', "option num_gpu: expected a whole number from 0 or `auto`, found 'all'"),
        ('manual_seed=first', 'option manual_seed: expected a whole number from 0'),
        ('path:resume_state=true', 'option path:resume_state: expected text or nothing, found True'),
        ('path:pretrain_networkg=x', 'option path: unknown key `pretrain_networkg`.'),
        ('model_type=AirnetModel', "option model_type: there is no 'AirnetModel'. Did you mean `AirNetModel`?"),
        ('name=../up', "option name: results go into a folder of this name: '../up' leads elsewhere"),
        ('network_g:type=AirNett', "option network_g:type: there is no 'AirNett'. Did you mean `AirNet`?"),
        ('network_g:num_feat=many', "option network_g:num_feat: expected a number, found 'many'"),
        ('network_g:num_feats=8', 'option network_g: unknown key `num_feats`.'),
        ('datasets:val:type=Tests', "option datasets:val:type: there is no 'Tests'."),
        ('datasets:train:batch_size_per_gpu=0', 'option datasets:train:batch_size_per_gpu: expected a whole number'),
        ('datasets:train:prefetch_mode=cuda', 'option datasets:train:prefetch_mode: `cuda` needs `pin_memory: true`'),
        ('datasets:train:persistent_workers=true', 'option datasets:train:persistent_workers: there are none'),
        ('datasets:train:degradations:rain:filename_tmpl={:d}', 'rain:filename_tmpl: expected text with `{}`'),
        ('datasets:train:degradations:rain:filename_tmpl=clean', 'rain:filename_tmpl: expected text with `{}`'),
        ('val:val_freq=0', 'option val:val_freq: expected a whole number from 1, found 0'),
        ('val:metrics:psnr:type=psnr', "option val:metrics:psnr:type: there is no 'psnr'."),
        ('val:metrics:psnr:crop_bordr=1', 'option val:metrics:psnr: the key `crop_border` is missing'),
        ('logger:print_freq=0', 'option logger:print_freq: expected a whole number from 1, found 0'),
        ('logger:wandb=yes', "option logger:wandb: expected a mapping of keys to values or nothing, found 'yes'"),
        ('vall:x=1', '--force_yml vall:x=1: there is no section `vall` in the option file. Did you mean `val`?'),
        ('train:optim_g:betas=[open(1)]', '--force_yml train:optim_g:betas=[open(1)]: [open(1)] is no list'),
        ('train', '--force_yml train: write SECTION:KEY=VALUE'),
    ],
)
def test_every_fault_is_a_line_at_the_start(parsed, tmp_path, change, message):
    path = write_options(tmp_path)
    if 'crop_bordr' in change:
        path.write_text(path.read_text().replace('crop_border: 0', 'better: higher'))
    with pytest.raises(InputError) as error:
        parsed(change, path=path)
    assert message in str(error.value)
    assert str(error.value).count('\n') <= 1, error.value
    assert not (tmp_path / 'experiments').exists()


def test_all_that_is_wrong_is_said_at_once(parsed, tmp_path):
    path = write_options(tmp_path, lr='fast', total_iter='many', save_img='perhaps')
    with pytest.raises(InputError) as error:
        parsed(path=path)
    lines = str(error.value).splitlines()
    places = ('train:optim_g:lr', 'train:total_iter', 'val:save_img')
    assert [line.split(': ')[0] for line in lines] == [f'option {place}' for place in places]


def test_restarts_that_end_before_training_does(parsed, tmp_path):
    path = write_options(tmp_path)
    text = path.read_text().replace(
        '{type: MultiStepLR, milestones: [20, 30], gamma: 0.5}', '{type: CosineAnnealingRestartLR, periods: [20, 19]}'
    )
    path.write_text(text)
    with pytest.raises(InputError, match='periods and restart_weights should have the same length'):
        parsed(path=path)
    path.write_text(text.replace('19]', '19], restart_weights: [1, 1]'))
    with pytest.raises(InputError, match='train:scheduler:periods: they end after 39 iterations, and total_iter is 40'):
        parsed(path=path)
    path.write_text(text.replace('19]', '20], restart_weights: [1, 1]'))
    assert parsed(path=path)['train']['scheduler']['periods'] == [20, 20]


@pytest.mark.parametrize('section', ['datasets', 'path', 'train', 'logger', 'name', 'num_gpu'])
def test_sections_that_are_missing(parsed, tmp_path, section):
    path = write_options(tmp_path)
    root = yaml.compose(path.read_text())
    root.value = [(key, value) for key, value in root.value if key.value != section]
    path.write_text(yaml.serialize(root))
    with pytest.raises(InputError, match=f'option file: the (section|key) `{section}` is missing'):
        parsed(path=path)


def test_tests_are_checked_too(parsed, tmp_path):
    path = tmp_path / 'test.yml'
    path.write_text(TEST)
    assert parsed(path=path, is_train=False)['datasets']['test_1']['phase'] == 'test'
    for old, new, message in (
        ('test_1:', 'train:', 'option datasets:train: unknown dataset of a test'),
        (
            'crop_border: 0',
            'crop_border: ten',
            "option val:metrics:psnr:crop_border: expected a whole number from 0, found 'ten'",
        ),
        ('save_img: false, ', '', 'option val: the key `save_img` is missing'),
        ('name: tested', 'name: 2024', 'option name: expected text, found 2024; write it in quotes'),
    ):
        path.write_text(TEST.replace(old, new))
        with pytest.raises(InputError) as error:
            parsed(path=path, is_train=False)
        assert message in str(error.value)


def test_keys_of_the_user_s_own_classes_stay_possible(parsed, tmp_path, monkeypatch):
    class MyModel(AirNetModel):
        TRAIN_KEYS = AirNetModel.TRAIN_KEYS | {'edge_weight'}

        def setup_schedulers(self):
            """Of types of its own."""

    class MyNet(nn.Module):
        def __init__(self, width=8, norm=None, **more):
            super().__init__()

    class MyDataset:
        """Its `seed` is a word."""

    for registry, mine in ((MODEL_REGISTRY, MyModel), (ARCH_REGISTRY, MyNet), (DATASET_REGISTRY, MyDataset)):
        monkeypatch.setitem(registry._obj_map, mine.__name__, mine)
    changes = {
        'model_type': 'MyModel',
        'train:edge_weight': '0.5',
        'train:scheduler:type': 'Mine',
        'train:scheduler:periods': 'weekly',
        'network_g:type': 'MyNet',
        'network_g:width': '1e1',
        'network_g:norm': 'layer',
        'network_g:anything': '3',
        'datasets:val:type': 'MyDataset',
        'datasets:val:seed': 'word',
        'notes': 'mine',
    }
    opt = parsed(*(f'{key}={value}' for key, value in changes.items()))
    assert opt['network_g']['width'] == 10 and opt['datasets']['val']['seed'] == 'word' and opt['notes'] == 'mine'


def test_the_page_and_the_schema_know_every_key_that_is_explained():
    shown = page()
    for key, value in load_options(ROOT / 'options/train_airnet_aio.yml').items():
        if isinstance(value, dict) and key not in ('datasets', 'network_g', 'paper', 'dist_params'):
            for inner in value:
                assert f'| `{inner}` |' in shown.partition(f'## `{key}`')[2].partition('\n## ')[0], (key, inner)
    train = json_schema()['$defs']['Train']['properties']
    assert train['total_iter']['minimum'] == 1 and 'bf16' in str(train['amp'])


def test_the_page_is_a_program():
    done = run_python('-m', 'airnet_basicsr.plugin.option_page', '--json', cwd=ROOT)
    assert json.loads(done.stdout)['$defs']['Optimizer']['required'] == ['type', 'lr']


def test_the_shipped_files_pass(parsed):
    for path in sorted((ROOT / 'options').rglob('*.yml')):
        opt = parsed('num_gpu=0', path=path, is_train=(is_train := 'train' in load_options(path)))
        assert opt['is_train'] is is_train
