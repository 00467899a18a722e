"""`make reference`, the recipe of the network that ships, from folders of photographs to its card, tiny."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

from airnet_basicsr.network.checkpoints import read_checkpoint
from airnet_basicsr.restore import Restorer

SMALLER = 'train:total_iter=2 train:encoder_warmup_iter=0 train:warmup_iter=-1 val:val_freq=2 logger:print_freq=1 '
SMALLER += 'logger:save_checkpoint_freq=2 datasets:train:num_worker_per_gpu=0 '
SMALLER += 'datasets:train:batch_size_per_gpu=1 datasets:train:gt_size=48'


@pytest.fixture
def checkout(tmp_path):
    """What git knows of this checkout, in a folder of its own."""
    listed = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip('this is no git checkout')
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    for library in ROOT.glob('airnet_basicsr/network/ops/_native*'):
        shutil.copyfile(library, tmp_path / library.relative_to(ROOT))
    (tmp_path / '.venv').symlink_to((ROOT / '.venv').resolve())
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not (ROOT / '.venv').exists(), reason='made by make')
def test_the_recipe_makes_a_network_that_explains_and_its_card(checkout, reference_sources):
    variables = {**reference_sources, 'SHIPPED': 'out/small.pth', 'CARD': 'out/card.md', 'COUNT': '12'}
    variables['FORCE'] = f'--force_yml {SMALLER}'
    command = ['make', '-o', '.venv/.installed', 'reference', *(f'{key}={value}' for key, value in variables.items())]
    environment = {**os.environ, 'PYTHONPATH': str(checkout), 'HOLD_OUT': '1 1 1'}
    environment = {key: value for key, value in environment.items() if not key.startswith('MAKE')}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    made = checkout / 'out/small.pth'
    assert {'rain', 'haze', 'clean', 'noise_25'} & set(read_checkpoint(made).reference) == {'rain', 'haze', 'clean'}
    assert Restorer(made).leave_alone
    card = Path(checkout, 'out/card.md').read_text()
    assert 'part 1 of 6' in card and 'clean_SOTS' in card and 'unshuffle=2' in card
