"""From a download of each set since AirNet, in each layout, through the option files that ship: as a user goes."""

import json
import math
import re
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from later_layouts import LAYOUTS, Made, make_download
from small_run import run

from airnet_basicsr.plugin.options import load_options
from airnet_basicsr.prepare import command
from basicsr.test import test_pipeline as run_test
from basicsr.train import train_pipeline as run_training


def layouts(*dataset_and_words: str) -> list[Made]:
    """Those named by ``DATASET: what is said of the layout``."""
    return [each for each in LAYOUTS if f'{each.dataset}: {each.said}' in dataset_and_words]


def paired(place: str, name: str) -> list[str]:
    return [f'{place}:dataroot_{side}=datasets/{name}_{side}.lmdb' for side in ('gt', 'lq')]


RAIN100H = [
    *paired('datasets:train:degradations:rain', 'Rain100H_train'),
    *paired('datasets:val_2:degradation', 'Rain100H_test'),
]
RAIN100H_TEST = paired('datasets:test_4:degradation', 'Rain100H_test')
GAMMA = paired('datasets:train:degradations:blur', 'GoPro_gamma_train')
GAMMA_TEST = paired('datasets:test_6:degradation', 'GoPro_gamma_test')
CLEAN = [f'datasets:test_{place}:degradation:dataroot_gt=datasets/{name}.lmdb'
         for names, name in (((1, 2, 3), 'Kodak24'), ((4, 5, 6), 'McMaster')) for place in names]  # fmt: skip
LOL = ('lol-train: our485', 'lol-test: eval15')

# The setting (train_airnet_SETTING.yml and its test), layouts of its sets, changes of the training run and of the test.
RUNS = {
    'five': ('five', layouts('gopro-train: SEQUENCE/blur,', 'gopro-test: SEQUENCE/blur,', *LOL), [], []),
    'five, pairs': (
        'five',
        layouts(
            'gopro-train: pairs (input, target)', 'gopro-test: pairs (input, target)', *LOL, 'sots-outdoor: equal names'
        ),
        [],
        [],
    ),
    'five, crops': ('five', layouts('gopro-train: crops', 'gopro-test: pairs (input, target)', *LOL), [], []),
    'five, gamma': (
        'five',
        layouts('gopro-gamma-train: blur_gamma', 'gopro-gamma-test: blur_gamma', *LOL),
        GAMMA,
        GAMMA_TEST,
    ),
    'cdd11': ('cdd11', layouts('cdd11-train: clear, low, haze', 'cdd11-test: clear, low, haze'), [], []),
    'cdd11, flat': ('cdd11', layouts('cdd11-train: flat', 'cdd11-test: flat'), [], []),
    'weather': ('weather', [each for each in LAYOUTS if each.dataset.startswith(('snow', 'raind', 'outd'))], [], []),
    'rain100h': (
        'derain',
        layouts('rain100h-train: rain, norain', 'rain100h-test: rainy, norain-NNN'),
        RAIN100H,
        RAIN100H_TEST,
    ),
    'rain100h, release': (
        'derain',
        layouts('rain100h-train: release (rainy, gt)', 'rain100h-test: release (input, target)'),
        RAIN100H,
        RAIN100H_TEST,
    ),
    'rain100h, X2': (
        'derain',
        layouts('rain100h-train: rain, norain', 'rain100h-test: rain/X2'),
        RAIN100H,
        RAIN100H_TEST,
    ),
    'denoise': ('denoise', layouts('kodak24: kodimNN', 'mcmaster: N.tif'), [], CLEAN),
}
NETWORK = ('network_g:num_feat=16', 'network_g:num_group=1', 'network_g:num_block=1')
SMALL = (
    *NETWORK,
    'datasets:train:gt_size=32',
    'datasets:train:num_worker_per_gpu=0',
    'datasets:train:dataset_enlarge_ratio=20',
    'train:total_iter=2',
    'train:encoder_warmup_iter=1',
    'val:val_freq=2',
    'logger:print_freq=1',
    'logger:use_tb_logger=false',
)


def psnr(clean: Path, degraded: Path) -> float:
    first, second = (cv2.imread(str(file)).astype(float) for file in (clean, degraded))
    return 10 * math.log10(255**2 / np.mean((first - second) ** 2))


def test_every_layout_is_among_the_runs() -> None:
    assert [each for each in LAYOUTS if not any(each in made for _, made, _, _ in RUNS.values())] == []


@pytest.mark.parametrize('name', RUNS)
def test_prepared_trained_and_tested(
    name: str, tmp_path: Path, paper_datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting, made, force, force_test = RUNS[name]
    # The paper's own sets, which some settings share; but for one that is prepared here.
    others = shutil.ignore_patterns('SOTS*') if any(each.dataset == 'sots-outdoor' for each in made) else None
    shutil.copytree(paper_datasets / 'datasets', tmp_path / 'datasets', ignore=others)
    degraded = {}
    for place, layout in enumerate(made):
        pairs = make_download(tmp_path / str(place), layout, 40, 48)
        if 'train' not in layout.dataset:
            degraded |= {pair.key: pair.degraded and psnr(pair.clean, pair.degraded) for pair in pairs}
        words = [layout.dataset, '--source', tmp_path / str(place), '--out', tmp_path / 'datasets', '--workers', 1]
        monkeypatch.setattr(sys, 'argv', ['prepare', *map(str, words)])
        assert command.main() == 0
    monkeypatch.setattr(sys, 'argv', ['prepare', 'verify', str(tmp_path / 'datasets'), '--workers', '1'])
    assert command.main() == 0

    file = f'train_airnet_{setting}.yml'
    run(run_training, file, tmp_path, monkeypatch, *SMALL, *force)
    (log,) = (tmp_path / 'experiments' / f'train_airnet_{setting}').glob('train_*.log')
    losses = re.findall(r' l_(\w+): (\S+)', log.read_text())
    assert all(math.isfinite(float(value)) for _, value in losses)
    trained = load_options(tmp_path / 'experiments' / f'train_airnet_{setting}' / file)['datasets']['train']
    named = {f'pix_{degradation}' for degradation in trained['degradations']}
    assert {loss for loss, _ in losses} >= (named if len(named) > 1 else {'pix'})

    run(run_test, f'test_airnet_{setting}.yml', tmp_path, monkeypatch, *NETWORK, *force_test)
    lines = (tmp_path / 'results' / f'test_airnet_{setting}' / 'per_image.jsonl').read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert all(math.isfinite(record['metrics']['psnr']) for record in records)
    # Each picture of the download was tested, and what it was compared with is its own clean picture.
    found = {record['image']: record['input']['psnr'] for record in records}
    for key, expected in degraded.items():
        assert found[key] == pytest.approx(expected, abs=0.01) if expected else key in found
