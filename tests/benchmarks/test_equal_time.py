"""benchmarks/equal_time.py: the same patches for all, lengths that fit, runs that resume, a table of the records."""

import importlib.util
import json
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.data.data_sampler import EnlargedSampler
from conftest import ROOT, run_python

SCRIPT = ROOT / 'benchmarks/equal_time.py'
spec = importlib.util.spec_from_file_location('equal_time', SCRIPT)
equal_time = importlib.util.module_from_spec(spec)
spec.loader.exec_module(equal_time)


def first_patches(network, seed, comparison):
    """The first two batches as BasicSR's train.py makes them."""
    opt = comparison.placed(equal_time.scaled(network, 10, seed))
    data = opt['datasets']['train'] | {'phase': 'train', 'scale': 1}
    torch.manual_seed(opt['manual_seed'])
    dataset = build_dataset(data)
    sampler = EnlargedSampler(dataset, 1, 0, 1)
    sampler.set_epoch(0)
    batches = iter(build_dataloader(dataset, data, num_gpu=0, dist=False, sampler=sampler, seed=seed))
    return torch.cat([next(batches)['lq'] for _ in range(2)])


def test_all_networks_get_the_same_patches_of_a_seed(reference_data, tmp_path):
    comparison = equal_time.Comparison(tmp_path, reference_data / 'datasets/reference', 60)
    assert set(equal_time.NETWORKS) == {'airnet', 'dncnn', 'nafnet', 'promptir'}
    first, *others = (first_patches(network, 1, comparison) for network in equal_time.NETWORKS)
    assert all(torch.equal(first, other) for other in others)
    assert not torch.equal(first, first_patches('dncnn', 2, comparison))


def test_networks_differ_in_themselves_alone():
    options = {network: equal_time.scaled(network, 500, 0) for network in equal_time.NETWORKS}
    own = {'name', 'model_type', 'network_g'}
    contrast = {'contrast_opt', 'encoder_warmup_iter', 'queue_size', 'key_momentum'}
    airnet = options.pop('airnet')
    for other in options.values():
        assert {key for key in airnet if airnet[key] != other[key]} == own | {'train'}
        assert airnet['train'].keys() - other['train'].keys() == contrast
        assert all(airnet['train'][key] == value for key, value in other['train'].items())


def test_all_lengths_are_scaled():
    """Those of the option file are for 2,000 iterations."""
    train = equal_time.scaled('airnet', 500, 0)['train']
    assert (train['total_iter'], train['warmup_iter'], train['encoder_warmup_iter']) == (500, 25, 15)
    assert train['scheduler']['periods'] == [500] and train['scheduler']['eta_min'] == 1e-6


def test_data_that_are_not_there_are_named(tmp_path):
    done = run_python(SCRIPT, '--datasets', tmp_path, '--out', tmp_path / 'out', cwd=tmp_path)
    assert done.returncode == 1 and 'there is no Kodak12.lmdb in it' in done.stdout
    assert 'Traceback' not in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_resumes_takes_its_time_and_stands_in_the_table(reference_data, tmp_path):
    out = tmp_path / 'out'
    command = [sys.executable, SCRIPT, '--networks', 'dncnn', '--budget', '40', '--out', out]
    command += ['--datasets', reference_data / 'datasets/reference', '--seeds']
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}

    def record(seed):
        return json.loads((out / f'dncnn_seed{seed}.json').read_text())

    def log(seed):
        return ''.join(path.read_text() for path in out.glob(f'experiments/dncnn_seed{seed}/train_*.log'))

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen([*command, '0'], env=environment, cwd=tmp_path) as process:
        while 'iter: ' not in log(0):
            assert process.poll() is None
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 75
    assert len(record(0)['seconds']) == 1 and not record(0)['trained']

    # A run that was ended without saving: nobody knows how long it took.
    killed = {'network': 'dncnn', 'seed': 1, 'iterations': 4, 'seconds': [1e6], 'at_work': True}
    (out / 'dncnn_seed1.json').write_text(json.dumps(killed))
    done = subprocess.run([*command, '0', '1'], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'dncnn_seed1 was ended without saving' in done.stdout
    assert len(record(0)['seconds']) == 2 and len(record(1)['seconds']) == 1
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert 0 < sum(record(0)['seconds'] + record(1)['seconds']) < spent

    assert 'Resuming training' in log(0)
    last = re.findall(r'iter: +(\d+), lr:\(([\d.e-]+)', log(0))[-1]
    assert int(last[0]) > 0.9 * record(0)['iterations'] and float(last[1]) < 5e-5  # of 1e-3

    row = json.loads((out / 'table.json').read_text())['rows'][1]
    assert row['seconds'] == [sum(record(seed)['seconds']) for seed in (0, 1)]
    assert row['parameters'] == 670_531
    lines = [
        [json.loads(line) for line in Path(out, f'results/dncnn_seed{seed}/per_image.jsonl').read_text().splitlines()]
        for seed in (0, 1)
    ]
    means = [
        statistics.mean(line['metrics']['psnr'] for line in of_seed if line['dataset'] == 'SOTS') for of_seed in lines
    ]
    assert row['psnr']['SOTS'] == pytest.approx(means)
    degraded = [[line for line in of_seed if not line['dataset'].startswith('clean')] for of_seed in lines]
    worse = [
        statistics.mean(line['input']['psnr'] - line['metrics']['psnr'] > 0.05 for line in of_seed)
        for of_seed in degraded
    ]
    assert row['made_worse'] == pytest.approx(worse)
    shown = (out / 'table.md').read_text()
    assert f'{statistics.mean(means):.2f} ± {abs(means[0] - means[1]) / 2:.2f}' in shown
    # What is complete is not run again.
    assert subprocess.run([*command, '0', '1'], env=environment, cwd=tmp_path, capture_output=True).returncode == 0
    assert len(record(0)['seconds']) == 2
