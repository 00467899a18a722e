"""Several processes on a CPU (gloo) against one."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from basicsr.models import build_model
from basicsr.utils.dist_util import init_dist
from conftest import ROOT, run_python, write_image
from small_run import write_options

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.options import load_options

TORCHRUN = ('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2')
SCRIPT = Path(__file__).with_name('two_processes.py')


@pytest.fixture
def folder(tmp_path, paper_datasets):
    (tmp_path / 'datasets').symlink_to(paper_datasets / 'datasets')
    write_options(tmp_path)
    return tmp_path


def run(folder, *command):
    done = run_python(*command, cwd=folder, OMP_NUM_THREADS='1')
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def written(folder, name):
    return torch.load(folder / f'{name}.pt', weights_only=True)


def test_two_processes_with_half_the_batch_give_the_gradients_of_one(folder):
    run(folder, SCRIPT, folder, 'none', 1, 0)
    run(folder, *TORCHRUN, SCRIPT, folder, 'pytorch', 1, 0)
    expected = written(folder, 'none0')['gradients']
    for rank in (0, 1):
        gradients = written(folder, f'pytorch{rank}')['gradients']
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            distance = (gradient - expected[name]).norm() / expected[name].norm().clamp_min(1e-12)
            assert distance < 1e-5, name


def test_queue_and_network_stay_the_same_in_both_processes(folder):
    run(folder, *TORCHRUN, SCRIPT, folder, 'pytorch', 20, 5)
    first, second = (written(folder, f'pytorch{rank}') for rank in (0, 1))
    assert torch.equal(first['queue'], second['queue'])
    assert all(torch.equal(tensor, second['parameters'][name]) for name, tensor in first['parameters'].items())


@pytest.mark.skipif(not os.path.isdir('/proc/self/task'), reason='threads are listed on Linux only')
def test_no_thread_of_the_group_is_left_when_the_interpreter_ends(folder):
    """One that is left may abort the process after all its work is done."""
    (folder / 'ends.py').write_text(
        'import pathlib\n'
        'from airnet_basicsr.train import main\n'
        'main()\n'
        "print('threads:', *(path.read_text().strip() for path in pathlib.Path('/proc/self/task').glob('*/comm')))\n"
    )
    printed = run(folder, *TORCHRUN, 'ends.py', '-opt', 'run.yml', '--launcher', 'pytorch')
    assert printed.count('threads:') == 2 and 'gloo' not in printed.partition('threads:')[2], printed[-3000:]


def test_training_validating_and_resuming_in_two_processes(folder):
    """The shared validation gives the numbers of a test in one process."""
    write_options(folder, ema_decay=0, total_iter=15, val_freq=15)
    program = ('-m', 'airnet_basicsr.train', '-opt', 'run.yml')
    output = run(folder, *TORCHRUN, *program, '--launcher', 'pytorch')
    shared = re.findall(r'# psnr: ([\d.]+)', output)
    assert len(shared) == 2 and shared[0] == shared[1]
    test = (ROOT / 'options/test_airnet_aio.yml').read_text()
    one_set = re.sub(r'datasets:\n.*?\nnetwork_g', f'datasets:\n  test:\n{VAL}\nnetwork_g', test, flags=re.S)
    sizes = one_set.replace('num_feat: 64', 'num_feat: 16').replace('num_group: 5', 'num_group: 1')
    sizes = sizes.replace('num_block: 5', 'num_block: 1').replace('train_airnet_aio/', 'run/')
    (folder / 'test.yml').write_text(sizes.replace('num_gpu: auto', 'num_gpu: 0'))
    alone = run(folder, '-m', 'airnet_basicsr.test', '-opt', 'test.yml')
    assert re.findall(r'# psnr: ([\d.]+)', alone) == shared[:1]
    # Resumed in two processes, and in one.
    again = run(
        folder, *TORCHRUN, *program, '--launcher', 'pytorch', '--auto_resume', '--force_yml', 'train:total_iter=17'
    )
    assert 'iter: 14.' in again and 'iter:      17' in again
    state = torch.load(folder / 'experiments/run/training_states/14.state', weights_only=True)
    assert len(state['random']) == 2
    assert 'iter:      16' in run(folder, *program, '--auto_resume', '--force_yml', 'train:total_iter=16')


def test_slurm_s_launcher(folder):
    write_options(folder, total_iter=3, encoder_warmup_iter=1, save_checkpoint_freq=3)
    (folder / 'scontrol').write_text(
        '#!/bin/sh\n[ "$*" = "show hostname node[1-2]" ] && echo localhost && echo other\n'
    )
    (folder / 'scontrol').chmod(0o755)
    with socket.socket() as free:
        free.bind(('', 0))
        port = str(free.getsockname()[1])
    job = {'SLURM_NTASKS': '2', 'SLURM_NODELIST': 'node[1-2]', 'MASTER_PORT': port, 'OMP_NUM_THREADS': '1'}
    job['PATH'] = f'{folder}:{os.environ["PATH"]}'
    command = (sys.executable, '-m', 'airnet_basicsr.train', '-opt', 'run.yml', '--launcher', 'slurm')
    tasks = [
        subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **job, 'SLURM_PROCID': str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [task.communicate(timeout=300)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], '\n'.join(outputs)[-3000:]
    assert ['iter:       3' in output for output in outputs] == [True, False]
    state = torch.load(folder / 'experiments/run/training_states/3.state', weights_only=True)
    assert len(state['random']) == 2


@pytest.mark.parametrize(
    ('launcher', 'variables', 'message'),
    [
        ('pytorch', {}, 'RANK, .*with torchrun'),
        ('slurm', {'SLURM_NTASKS': '2'}, 'SLURM_PROCID, SLURM_NODELIST not set.*with srun'),
        ('slurm', {'SLURM_NTASKS': '2', 'SLURM_PROCID': '0', 'SLURM_NODELIST': 'n1', 'PATH': ''}, 'no scontrol'),
    ],
)
def test_a_launcher_that_did_not_launch(launcher, variables, message, monkeypatch):
    for name in ('RANK', 'SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_NODELIST'):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.multiprocessing, 'set_start_method', lambda method: None)
    with pytest.raises(InputError, match=message):
        init_dist(launcher)


def test_the_dry_run_of_two_processes_reports_once(folder):
    output = run(
        folder, *TORCHRUN, '-m', 'airnet_basicsr.train', '-opt', 'run.yml', '--launcher', 'pytorch', '--dry-run'
    )
    (size,) = re.findall(r'checkpoints of (\d+) MiB', output)
    assert int(size) > 0  # that of the process that saves


def test_synchronized_statistics_need_gpus(folder, monkeypatch):
    monkeypatch.chdir(folder)
    opt = load_options('run.yml')
    opt.update(dist=True, is_train=True, rank=0, world_size=2)
    opt['train']['sync_bn'] = True
    with pytest.raises(InputError, match='train:sync_bn needs GPUs'):
        build_model(opt)


VAL = """    name: val
    type: DegradationTestDataset
    degradation: {type: GaussianNoise, sigma: 25, protocol: float, dataroot_gt: datasets/CBSD68.lmdb}
"""


def started(folder):
    """A training run in two processes, each with a data worker, that has begun; the launcher's process."""
    write_options(folder, total_iter=100000, print_freq=1, num_worker_per_gpu=1)
    command = [sys.executable, *TORCHRUN, '-m', 'airnet_basicsr.train', '-opt', 'run.yml', '--launcher', 'pytorch']
    with open(folder / 'log', 'w') as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env={**os.environ, 'OMP_NUM_THREADS': '1'}
        )
    while not re.search(r'iter: +9, lr', (folder / 'log').read_text()):
        assert process.poll() is None, (folder / 'log').read_text()[-3000:]
        time.sleep(0.05)
    return process


def assert_saved_once(folder):
    text = (folder / 'log').read_text()
    (reached,) = re.findall(r'Interrupted by .* after iteration (\d+): saved', text)
    state = torch.load(folder / f'experiments/run/training_states/{reached}.state', weights_only=True)
    assert len(state['random']) == 2
    assert 'Out of memory' not in text and 'died' not in text


def test_a_signal_to_the_launcher_ends_all_groups_of_processes_with_a_checkpoint(folder):
    """torchrun hands it on to every process and its data workers, which BasicSR starts by spawn."""
    process = started(folder)
    process.terminate()
    process.wait(90)
    assert_saved_once(folder)


@pytest.mark.skipif(not os.path.isdir('/proc/self/task'), reason='finds the process through /proc')
def test_a_signal_to_one_process_makes_both_leave_after_the_same_iteration(folder):
    process = started(folder)
    ranks = {}
    for child in Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split():
        environment = Path(f'/proc/{child}/environ').read_bytes().split(b'\0')
        ranks.update({value: int(child) for value in environment if value.startswith(b'RANK=')})
    os.kill(ranks[b'RANK=1'], signal.SIGTERM)  # the other one, which saves, knows nothing of it
    process.wait(90)
    assert_saved_once(folder)


def test_more_processes_than_images(folder, photos):
    """The one that has no image counts nothing: not even infinity times zero."""
    write_image(folder / 'clean/one.png', photos['coffee2'])
    roots = {'dataroot_gt': 'clean', 'dataroot_lq': 'clean'}
    opt = {'name': 'one', 'model_type': 'NoRestoration', 'scale': 1, 'num_gpu': 0, 'manual_seed': 0, 'path': {}}
    opt['datasets'] = {
        'test': {'name': 'one', 'type': 'DegradationTestDataset', 'degradation': {'type': 'PairedImages', **roots}}
    }
    opt['val'] = {'save_img': True, 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}}
    (folder / 'test.yml').write_text(yaml.safe_dump(opt))
    output = run(folder, *TORCHRUN, '-m', 'airnet_basicsr.test', '-opt', 'test.yml', '--launcher', 'pytorch')
    assert re.findall(r'# psnr: (\S+)', output) == ['inf']
    (line,) = (folder / 'results/one/per_image.jsonl').read_text().splitlines()
    assert json.loads(line)['metrics'] == {'psnr': 'inf'}
