"""BasicSR's own commands with the shipped option files, as processes, on small LMDBs of real photographs."""

import re

import pytest
import torch
from conftest import ROOT, run_python

SMALL = ['datasets:train:gt_size=32', 'datasets:train:num_worker_per_gpu=1', 'num_gpu=0', 'logger:print_freq=1']


def train(cwd, *arguments, iterations=3, warmup=0, force=(), program=('-m', 'airnet_basicsr.train'), **environment):
    forced = [*SMALL, f'train:total_iter={iterations}', f'train:encoder_warmup_iter={warmup}', *force]
    options = ('-opt', ROOT / 'options/train_airnet_aio.yml', *arguments, '--force_yml', *forced)
    return run_python(*program, *options, cwd=cwd, **environment)


def iterations_logged(output):
    return [int(number) for number in re.findall(r'iter: +(\d+), lr', output)]


@pytest.fixture(scope='module')
def trained(paper_datasets):
    """Three iterations of the full-size network, one of them warm-up, with a checkpoint after the second."""
    force = ['logger:save_checkpoint_freq=2', 'val:val_freq=3']
    done = train(paper_datasets, warmup=1, force=force)
    assert done.returncode == 0, done.stdout[-3000:]
    return paper_datasets / 'experiments/train_airnet_aio', done.stdout


def test_training_logs_both_losses_and_validates_every_set(trained):
    _, output = trained
    assert iterations_logged(output) == [1, 2, 3]
    lines = [line for line in output.splitlines() if 'l_contrast' in line]
    assert ['l_pix' in line for line in lines] == [False, True, True]
    assert all('contrast_acc' in line for line in lines)
    assert 'parameters: 7,610,377' in output
    for name in ('CBSD68_sigma25', 'Rain100L'):
        # Validated at 3 and after the end; both are iteration 3.
        assert re.findall(rf'Validation {name}\s+# psnr: [\d.]+\s+Best: [\d.]+ @ (\d+) iter', output) == ['3', '3']


def test_auto_resume_continues_where_the_last_state_was_saved(trained):
    experiment, _ = trained
    network = torch.load(experiment / 'models/net_g_2.pth', weights_only=True)['params']
    saved = torch.load(experiment / 'training_states/2.state', weights_only=True)['contrast']
    done = train(experiment.parents[1], '--auto_resume', iterations=4, force=['logger:save_checkpoint_freq=4'])
    assert done.returncode == 0, done.stdout[-3000:]
    assert 'Resuming training from epoch: 0, iter: 2' in done.stdout
    assert iterations_logged(done.stdout) == [3, 4]
    after = torch.load(experiment / 'training_states/4.state', weights_only=True)['contrast']
    # Ten of the queue's keys had come before the checkpoint, ten came after it; the others stay as they were.
    assert saved['queue_ptr'] == 10 and after['queue_ptr'] == 20
    changed = (after['queue'] != saved['queue']).any(0).nonzero().flatten().tolist()
    assert changed == list(range(10, 20))
    torch.testing.assert_close(after['queue'].norm(dim=0), torch.ones(1280))
    # The key encoder lags behind its start by the momentum; anew from the network it would equal that.
    name = 'blocks.0.body.0.weight'
    lag = (after[f'key_encoder.{name}'] - saved[f'key_encoder.{name}']).abs().max()
    gap = (network[f'encoder.{name}'] - saved[f'key_encoder.{name}']).abs().max()
    assert 0 < lag < 0.1 * gap


def test_testing_runs_all_five_benchmarks(trained):
    experiment, _ = trained
    root = experiment.parents[1]
    options = ROOT / 'options/test_airnet_aio.yml'
    done = run_python('-m', 'airnet_basicsr.test', '-opt', options, '--force_yml', 'num_gpu=0', cwd=root)
    assert done.returncode == 0, done.stdout[-3000:]
    names = ['CBSD68_sigma15', 'CBSD68_sigma25', 'CBSD68_sigma50', 'Rain100L', 'SOTS_outdoor']
    assert re.findall(r'Validation (\w+)\n.*# psnr: [\d.]+.*\n.*# ssim: [\d.]+', done.stdout) == names
    for name in names:
        assert len(list((root / 'results/test_airnet_aio/visualization' / name).glob('*.png'))) == 3


def test_the_checkout_s_launchers_write_to_the_checkout(paper_datasets, tmp_path):
    """Run from elsewhere, with the option file's relative paths: it is the datasets that are missing there."""
    done = train(tmp_path, program=(ROOT / 'basicsr/train.py',))
    assert done.returncode == 1
    assert 'there is no folder datasets/BSD400.lmdb' in done.stdout
    assert not list(tmp_path.iterdir())


def test_bad_input_ends_in_one_line(paper_datasets, tmp_path):
    wrong = [
        (['network_g:num_feat=8', 'path:pretrain_network_g=missing.pth'], 'checkpoint missing.pth does not exist'),
        (['datasets:train:gt_size=97'], 'BSD400.lmdb has 104x96 pixels, less than a patch (gt_size: 97)'),
        (['datasets:train:degradations:rain:dataroot_lq=datasets/none.lmdb'], 'there is no folder datasets/none.lmdb'),
    ]
    for force, message in wrong:
        done = train(paper_datasets, force=['name=bad_input', *force])
        assert done.returncode == 1
        last = done.stdout.strip().splitlines()[-1]
        assert last.startswith('Error: ') and message in last
        assert 'Traceback' not in done.stdout


def test_an_image_that_cannot_be_read_stops_training_with_its_name(paper_datasets, tmp_path, photos):
    from conftest import write_image

    for name, image in photos.items():
        write_image(tmp_path / f'clean/{name}.png', image)
        (tmp_path / f'clean/{name}.png').write_bytes(b'broken')
    clean = [f'datasets:train:degradations:noise{sigma}:dataroot_gt={tmp_path}/clean' for sigma in (15, 25, 50)]
    done = train(paper_datasets, force=['name=broken_image', 'network_g:num_feat=8', *clean])
    assert done.returncode == 1
    last = done.stdout.strip().splitlines()[-1]
    assert re.fullmatch(r'Error: image \S+/clean/\w+\.png cannot be decoded: damaged, or not an image', last)
    assert 'Traceback' not in done.stdout
