"""Every option file that is shipped, as BasicSR runs it: only smaller, and on small photographs."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, write_lmdb
from small_run import OPTION_FILES, run

from airnet_basicsr.plugin.options import load_options
from airnet_basicsr.prepare.layouts import CDD11
from basicsr.test import test_pipeline as run_test
from basicsr.train import train_pipeline as run_training

FILES = {str(path.relative_to(OPTION_FILES)): load_options(path) for path in sorted(OPTION_FILES.rglob('*.yml'))}
TRAINING = [name for name, options in FILES.items() if 'train' in options]
TESTING = [name for name in FILES if name not in TRAINING]
SMALLER = {
    'AirNet': ('num_feat=16', 'num_group=1', 'num_block=1'),
    'RCAN': ('num_group=1', 'num_block=1'),
    'RIDNet': ('num_block=1',),
    'AODNet': (),
    'BRDNet': ('num_feat=8',),
    'DnCNN': ('num_feat=16', 'num_layer=3'),
    'FFDNet': ('num_feat=8', 'num_layer=3'),
    'IRCNN': ('num_feat=8',),
    'MPRNet': ('n_feat=8', 'scale_unetfeats=4', 'scale_orsnetfeats=4'),
    'NAFNet': ('width=8', 'enc_blk_nums=[1]', 'dec_blk_nums=[1]'),
    'PromptIR': ('dim=8', 'num_blocks=[1, 1, 1, 1]', 'num_refinement_blocks=1'),
}


def roots(options):
    """Every folder of images that the options name."""
    for key, value in options.items():
        if isinstance(value, dict):
            yield from roots(value)
        elif key.startswith('dataroot'):
            yield from value if isinstance(value, list) else [value]


@pytest.fixture(scope='module')
def folder(tmp_path_factory, photos):
    """A working directory in which each dataset that any of the files names holds one picture, of 40 x 48 pixels."""
    root = tmp_path_factory.mktemp('option_files')
    picture = {'coffee2': photos['coffee2'][20:60, 30:78]}
    for dataroot in {name for options in FILES.values() for name in roots(options)}:
        (root / dataroot).parent.mkdir(parents=True, exist_ok=True)
        if dataroot.endswith('.lmdb'):
            several = {f'{kind}_1': picture['coffee2'] for kind in CDD11}
            write_lmdb(root / dataroot, several if 'CDD11' in dataroot else picture)
            continue
        (root / dataroot).mkdir()
        plane = picture['coffee2'][..., 1]
        stored = {'depth': plane.astype(np.uint16) * 100, 'streaks': plane}.get(Path(dataroot).name, picture['coffee2'])
        assert cv2.imwrite(str(root / dataroot / 'coffee2.png'), stored)
    return root


def smaller(options):
    return [f'network_g:{key}' for key in SMALLER[options['network_g']['type']]]


def train(file, folder, monkeypatch):
    """Two iterations, unless they are done; the folder of the experiment."""
    options = FILES[file]
    experiment = folder / 'experiments' / options['name']
    if not experiment.exists():
        force = ['datasets:train:gt_size=32', 'datasets:train:num_worker_per_gpu=0']
        force += ['train:total_iter=2', 'val:val_freq=2', 'logger:use_tb_logger=false']
        force += ['datasets:train:dataset_enlarge_ratio=20']  # of one picture, to fill a batch
        start = options['path'].get('pretrain_network_g') or ''
        shipped = start.startswith('airnet_basicsr/')
        force += [f'path:pretrain_network_g={ROOT / start}'] if shipped else smaller(options)
        frozen = options['train'].get('freeze_encoder')
        if options['model_type'] == 'AirNetModel' and not frozen:
            force.append('train:encoder_warmup_iter=1')
        if start.startswith('experiments/'):  # continues another training run
            before = Path(start).parts[1]
            train(next(file for file in TRAINING if FILES[file]['name'] == before), folder, monkeypatch)
        run(run_training, file, folder, monkeypatch, *force)
    return experiment


@pytest.mark.parametrize('file', TRAINING)
def test_trains(file, folder, monkeypatch):
    experiment = train(file, folder, monkeypatch)
    options = FILES[file]
    (log,) = experiment.glob('train_*.log')
    for dataset in list(options['datasets'].values())[1:]:
        assert f'Validation {dataset["name"]}\n' in log.read_text()
    weights = torch.load(experiment / 'models/net_g_latest.pth', weights_only=True)['params']
    assert all(values.isfinite().all() for values in weights.values())
    # The experiment's copy stands alone: moved anywhere, it is the same training.
    assert load_options(experiment / Path(file).name) == options


@pytest.mark.parametrize('file', TESTING)
def test_tests(file, folder, monkeypatch):
    options, force = FILES[file], []
    checkpoint = (options.get('path') or {}).get('pretrain_network_g', '')
    if checkpoint.startswith('airnet_basicsr/'):
        force = [f'path:pretrain_network_g={ROOT / checkpoint}']  # the network that ships, as it is
    elif checkpoint:
        force = smaller(options)
        name = Path(checkpoint).parts[1]
        (training,) = (file for file in TRAINING if FILES[file]['name'] == name)
        assert (train(training, folder, monkeypatch) / 'models/net_g_latest.pth').samefile(folder / checkpoint)
    if options['model_type'] == 'CBM3D':
        pytest.importorskip('bm3d')
        # Slow, so only one image: without noise it has nothing to do.
        force = [f'datasets:{phase}:degradation:sigma=0' for phase in list(options['datasets'])[1:]]
    run(run_test, file, folder, monkeypatch, *force)
    results = folder / 'results' / options['name']
    records = [json.loads(line) for line in (results / 'per_image.jsonl').read_text().splitlines()]
    names = [dataset['name'] for dataset in options['datasets'].values()]
    assert [record['dataset'] for record in records] == names
    assert all(record['metrics'].keys() == options['val']['metrics'].keys() for record in records)
    assert json.loads((results / 'run.json').read_text())['paper'] == options.get('paper')
