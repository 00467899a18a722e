"""The same option file in an unmodified BasicSR tree (git master) that knows nothing of the plugin."""

import os
import shutil
import subprocess
import sys
import tarfile

import pytest
import torch
from conftest import ROOT, run_python


@pytest.fixture(scope='module')
def tree(tmp_path_factory, paper_datasets):
    """The source archive of `basicsr-fixed` 1.4.2, which is git master of 2024-05, with datasets beside it."""
    folder = tmp_path_factory.mktemp('master')
    command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps', '--no-build-isolation']
    subprocess.run([*command, '--no-binary', ':all:', '--dest', folder, 'basicsr-fixed==1.4.2'], timeout=300)
    archive = next(folder.glob('*.tar.gz'), None)
    if archive is None:
        pytest.skip('offline: the source of basicsr-fixed cannot be downloaded')
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter='data')
    (root,) = (path for path in folder.iterdir() if path.is_dir())
    shutil.copytree(paper_datasets / 'datasets', root / 'datasets')
    return root


def test_trains_and_resumes_in_basicsr_s_own_checkout(tree):
    def train(*arguments, iterations):
        forced = ['datasets:train:gt_size=32', 'num_gpu=0', 'logger:print_freq=1', 'logger:save_checkpoint_freq=2']
        forced += [f'train:total_iter={iterations}', 'train:encoder_warmup_iter=1']
        options = ('-opt', ROOT / 'options/train_airnet_aio.yml', *arguments, '--force_yml', *forced)
        # As BasicSR's documentation has it.
        return run_python('basicsr/train.py', *options, cwd=tree, PYTHONPATH=f'.{os.pathsep}{ROOT}')

    done = train(iterations=2)
    assert done.returncode == 0, done.stdout[-3000:]
    assert 'Model [AirNetModel] is created' in done.stdout and 'l_pix' in done.stdout
    folder = tree / 'experiments/train_airnet_aio'
    assert torch.load(folder / 'training_states/2.state', weights_only=True)['contrast']['queue_ptr'] == 10
    resumed = train('--auto_resume', iterations=3)
    assert resumed.returncode == 0, resumed.stdout[-3000:]
    assert 'Resuming training from epoch: 0, iter: 2' in resumed.stdout
    where = run_python('-c', 'import basicsr; print(basicsr.__file__)', cwd=tree, PYTHONPATH=f'.{os.pathsep}{ROOT}')
    assert str(tree) in where.stdout
