"""Killed, interrupted and damaged runs: what is lost, what the user is told, and that the numbers do not change."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from basicsr.models import build_model
from conftest import run_python, write_image
from small_run import write_options as options

from airnet_basicsr.errors import InputError
from airnet_basicsr.plugin.models.training_state import newest_good_state
from airnet_basicsr.plugin.options import load_options


@pytest.fixture
def folder(tmp_path, paper_datasets):
    (tmp_path / 'datasets').symlink_to(paper_datasets / 'datasets')
    options(tmp_path)
    return tmp_path


def command(*arguments):
    return [sys.executable, '-m', 'airnet_basicsr.train', '-opt', 'run.yml', *arguments]


def train(folder, *arguments):
    return run_python(*command(*arguments)[1:], cwd=folder, OMP_NUM_THREADS='1')


def start(folder, *arguments):
    """A running process, and a function that gives its output once it is over."""
    log = open(folder / 'log', 'a')  # noqa: SIM115
    return subprocess.Popen(
        command(*arguments), cwd=folder, stdout=log, stderr=log, env={**os.environ, 'OMP_NUM_THREADS': '1'}
    )


def wait_for(folder, process, pattern, seconds=120):
    """Wait until the process has printed ``pattern``."""
    before = time.monotonic()
    while not re.search(pattern, (folder / 'log').read_text()):
        assert process.poll() is None and time.monotonic() - before < seconds, (folder / 'log').read_text()[-2000:]
        time.sleep(0.02)


def final(folder):
    experiment = folder / 'experiments/run'
    return torch.load(experiment / 'models/net_g_latest.pth', weights_only=True), torch.load(
        experiment / 'training_states/35.state', weights_only=True
    )


def assert_same(a, b, where=''):
    """Equal to the last bit, whatever is nested in it."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f'{where}.{key}')
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, pair in enumerate(zip(a, b, strict=True)):
            assert_same(*pair, f'{where}[{index}]')
    else:
        assert a == b, where


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, paper_datasets):
    folder = tmp_path_factory.mktemp('undisturbed')
    (folder / 'datasets').symlink_to(paper_datasets / 'datasets')
    options(folder)
    done = train(folder)
    assert done.returncode == 0, done.stdout[-3000:]
    return folder


def kill_and_resume(folder, kills, workers=(0,)):
    """Train with ``kills`` SIGKILLs at random moments, each time with another number of workers."""
    chance = random.Random(kills)
    for number in range(kills):
        options(folder, num_worker_per_gpu=workers[number % len(workers)])
        before = (folder / 'log').read_text().count('l_contrast') if (folder / 'log').exists() else 0
        process = start(folder, '--auto_resume')
        deadline = before + chance.randint(2, 40 // kills + 2)
        while process.poll() is None and (folder / 'log').read_text().count('l_contrast') < deadline:
            time.sleep(0.005)
        time.sleep(chance.random() * 0.05)
        process.kill()
        process.wait()
    options(folder, num_worker_per_gpu=workers[kills % len(workers)])
    done = train(folder, '--auto_resume')
    assert done.returncode == 0, done.stdout[-3000:]


def test_killed_three_times_and_resumed_with_other_workers_the_result_is_the_same(undisturbed, folder):
    kill_and_resume(folder, 3, workers=(0, 2, 1))
    assert_same(final(folder), final(undisturbed))


@pytest.mark.slow
def test_killed_twenty_times(undisturbed, folder):
    kill_and_resume(folder, 20, workers=(0, 1))
    assert_same(final(folder), final(undisturbed))


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT'])
def test_a_signal_saves_and_leaves_with_its_own_status(undisturbed, folder, name):
    options(folder, num_worker_per_gpu=1)
    process = start(folder)
    wait_for(folder, process, r'iter: +9, lr')
    process.send_signal(getattr(signal, name))
    assert process.wait(60) == 75
    (reached,) = re.findall(rf'Interrupted by {name} after iteration (\d+): saved', (folder / 'log').read_text())
    assert (folder / f'experiments/run/training_states/{reached}.state').is_file()
    assert 'Traceback' not in (folder / 'log').read_text()
    assert train(folder, '--auto_resume').returncode == 0
    assert_same(final(folder), final(undisturbed))


def test_a_second_signal_ends_at_once(folder):
    options(folder, total_iter=100000, print_freq=1)
    process = start(folder)
    wait_for(folder, process, r'iter: +3, lr')
    process.send_signal(signal.SIGSTOP)  # so that both come within one iteration
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    wait_for(folder, process, 'saving after this iteration')
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) in (75, -signal.SIGTERM)


def damage_truncate_network(experiment):
    os.truncate(experiment / 'models/net_g_35.pth', 2000)


def damage_truncate_state(experiment):
    os.truncate(experiment / 'training_states/35.state', 2000)


def damage_one_bit_of_the_network(experiment):
    path = experiment / 'models/net_g_35.pth'
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage_network_of_another_iteration(experiment):
    shutil.copy(experiment / 'models/net_g_28.pth', experiment / 'models/net_g_35.pth')


def damage_delete_state(experiment):
    (experiment / 'training_states/35.state').unlink()


@pytest.mark.parametrize(
    'damage',
    [
        damage_truncate_network,
        damage_truncate_state,
        damage_one_bit_of_the_network,
        damage_network_of_another_iteration,
        damage_delete_state,
    ],
)
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_used(undisturbed, folder, damage, capsys):
    experiment = folder / 'experiments/run'
    shutil.copytree(undisturbed / 'experiments/run', experiment)
    damage(experiment)
    path, state = newest_good_state(str(experiment / 'training_states'), str(experiment / 'models'))
    assert Path(path).name == '28.state' and state['iter'] == 28
    said = re.search('WARNING: .*35.* the checkpoint of iteration 35 is not used', capsys.readouterr().out)
    assert bool(said) == (damage is not damage_delete_state)


def test_resumed_from_the_checkpoint_before_a_damaged_one_the_result_is_the_same(undisturbed, folder):
    shutil.copytree(undisturbed / 'experiments', folder / 'experiments')
    damage_truncate_network(folder / 'experiments/run')
    done = train(folder, '--auto_resume')
    assert done.returncode == 0, done.stdout[-3000:]
    assert 'Resuming training from epoch: 1, iter: 28' in done.stdout
    assert 'the checkpoint of iteration 35 is not used' in done.stdout
    assert_same(final(folder), final(undisturbed))


def test_no_good_checkpoint_left_is_said_and_nothing_is_overwritten(undisturbed, folder):
    shutil.copytree(undisturbed / 'experiments', folder / 'experiments')
    for path in (folder / 'experiments/run/training_states').iterdir():
        os.truncate(path, 100)
    done = train(folder, '--auto_resume')
    assert done.returncode == 1 and 'Traceback' not in done.stdout
    assert 'none of the 5 checkpoints' in done.stdout.splitlines()[-1]
    assert len(list((folder / 'experiments/run/models').iterdir())) == 6


def test_keep_last_and_keep_best(folder):
    path = options(folder, total_iter=24)
    path.write_text(
        path.read_text().replace('use_tb_logger: false', 'use_tb_logger: false, keep_last: 2, keep_best: psnr')
    )
    done = train(folder)
    assert done.returncode == 0, done.stdout[-3000:]
    experiment = folder / 'experiments/run'
    assert {path.name for path in (experiment / 'training_states').iterdir()} == {'14.state', '21.state'}
    names = {path.name for path in (experiment / 'models').iterdir()}
    assert names == {'net_g_14.pth', 'net_g_21.pth', 'net_g_latest.pth', 'net_g_best_psnr.pth'}
    best = re.findall(r'best mean psnr so far, ([\d.]+), at iteration (\d+)', done.stdout)
    logged = [float(value) for value in re.findall(r'# psnr: ([\d.]+)', done.stdout)]
    assert float(best[-1][0]) == max(logged)


@pytest.fixture
def full_disk(folder):
    """``experiments`` on a file system of its own with room for two checkpoints."""
    target = folder / 'experiments'
    target.mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=5m', 'tmpfs', str(target)]).returncode == 0
    if not mounted:
        pytest.skip('needs the right to mount a file system')
    yield target / 'run'
    subprocess.run(['umount', '-l', str(target)], check=True)


def test_a_full_disk_costs_checkpoints_but_not_the_run(folder, full_disk):
    done = train(folder)
    assert 'the checkpoint could not be written' in done.stdout and 'Training continues' in done.stdout
    assert re.search(r'iter: +40, lr', done.stdout)
    # The end cannot be written either: that is an error, in one line, with what to do.
    assert done.returncode == 1 and 'Make room and run again with --auto_resume' in done.stdout.splitlines()[-1]
    assert 'Saved after iteration' not in done.stdout
    states = sorted(full_disk.glob('training_states/*.state'), key=lambda path: int(path.stem))
    last = int(states[-1].stem)
    assert not list(full_disk.glob('*/.writing_*'))
    for path in full_disk.glob('**/*.log'):
        path.unlink()
    for old in states[:-1]:
        old.unlink()
        (full_disk / f'models/net_g_{old.stem}.pth').unlink()
    options(folder, save_checkpoint_freq=1000)
    resumed = train(folder, '--auto_resume')
    assert resumed.returncode == 0, resumed.stdout[-3000:]
    assert f'iter: {last}.' in resumed.stdout


def test_a_folder_that_cannot_be_written(folder, full_disk):
    subprocess.run(['mount', '-o', 'remount,ro', str(full_disk.parent)], check=True)
    done = train(folder)
    assert done.returncode == 1 and 'Traceback' not in done.stdout
    assert re.fullmatch('Error: Read-only file system: .*experiments/run.*', done.stdout.splitlines()[-1])


def test_a_killed_worker_is_said_and_training_resumes_from_what_was_saved(undisturbed, folder):
    # Not at every iteration: an error that arrives while a line is being logged is told with logging's own traceback.
    options(folder, num_worker_per_gpu=2, print_freq=3)
    process = start(folder)
    wait_for(folder, process, r'iter: +9, lr')
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    assert process.wait(60) == 1
    log = (folder / 'log').read_text()
    assert 'Error: a data loading process died' in log.splitlines()[-1] and 'Traceback' not in log
    assert train(folder, '--auto_resume').returncode == 0
    assert_same(final(folder), final(undisturbed))


def test_a_broken_image_in_mid_epoch_is_named_and_costs_nothing(folder, photos):
    images = {f'{name}_{copy}': image for name, image in photos.items() for copy in range(4)}
    for name, image in images.items():
        write_image(folder / f'clean/{name}.png', image)
    path = options(folder)
    path.write_text(path.read_text().replace('dataroot_gt: datasets/BSD400.lmdb', 'dataroot_gt: clean'))
    whole = (folder / 'clean/coffee2_1.png').read_bytes()
    (folder / 'clean/coffee2_1.png').write_bytes(whole[:200])
    done = train(folder)
    assert done.returncode == 1 and 'Traceback' not in done.stdout
    assert 'image clean/coffee2_1.png cannot be decoded' in done.stdout.splitlines()[-1]
    (log,) = (folder / 'experiments/run').glob('train_*.log')
    assert 'image clean/coffee2_1.png cannot be decoded' in log.read_text().splitlines()[-1]
    (reached,) = re.findall(r'Saved after iteration (\d+)', done.stdout)
    (folder / 'clean/coffee2_1.png').write_bytes(whole)
    resumed = train(folder, '--auto_resume')
    assert resumed.returncode == 0 and f'iter: {reached}.' in resumed.stdout


def test_a_batch_that_is_not_finite_is_skipped_and_leaves_no_trace(folder):
    opt = load_options(folder / 'run.yml')
    opt.update(dist=False, is_train=True, rank=0, world_size=1)
    opt['train'].update(encoder_warmup_iter=0, nonfinite_limit=3)
    model = build_model(opt)
    torch.manual_seed(0)
    batch = {name: torch.rand(1, 2, 3, 24, 24) for name in ('lq', 'key', 'gt')} | {'degradation': torch.arange(2)[None]}
    bad = {**batch, 'lq': batch['lq'].clone()}
    bad['lq'][0, 1, 2, 3, 4] = float('nan')
    model.feed_data(batch)
    model.optimize_parameters(1)
    parts = (model.net_g, model.net_g_ema, model.contrast)
    before = [{name: tensor.clone() for name, tensor in part.state_dict().items()} for part in parts]
    for number in (1, 2):
        model.feed_data(bad)
        model.optimize_parameters(1 + number)
        assert model.log_dict['skipped'] == number
    for part, state in zip(parts, before, strict=True):
        for name, tensor in part.state_dict().items():
            # The key encoder moves towards the (finite) query encoder whatever the batch holds.
            if name not in ('queue', 'queue_ptr') and not name.startswith('key_encoder') or 'running' in name:
                assert torch.equal(tensor, state[name]), name
            assert tensor.isfinite().all()
    assert torch.equal(model.contrast.queue, before[2]['queue'])
    model.feed_data(bad)
    with pytest.raises(InputError, match='training stopped at iteration 4: 3 steps in a row'):
        model.optimize_parameters(4)
    model.feed_data(batch)
    model.optimize_parameters(5)
    assert model.steps.in_a_row == 0
