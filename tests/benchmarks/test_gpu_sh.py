"""benchmarks/gpu.sh rehearsed without a GPU: every part, tiny, with results that resume."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

TIME_IS_UP = 75


def gpu_sh(folder, *arguments, root=ROOT, **variables):
    environment = {**os.environ, 'DEVICE': 'cpu', 'PYTHON': sys.executable, 'OUT': str(folder), **variables}
    return subprocess.run(
        ['sh', root / 'benchmarks/gpu.sh', *arguments], env=environment, capture_output=True, text=True, timeout=1200
    )


@pytest.fixture
def packed(tmp_path, reference_data):
    done = gpu_sh(tmp_path, 'pack', reference_data / 'datasets/reference', tmp_path / 'packed')
    assert done.returncode == 0 and 'MB' in done.stdout, done.stdout + done.stderr
    return tmp_path / 'packed'


def test_without_a_part_it_says_which_there_are(tmp_path):
    done = gpu_sh(tmp_path)
    assert done.returncode == 2
    assert all(
        f'benchmarks/gpu.sh {part}' in done.stderr for part in ('tests', 'backends', 'throughput', 'pack', 'train')
    )


@pytest.mark.slow
def test_backends_stop_in_time_and_go_on(tmp_path):
    done = gpu_sh(tmp_path, 'backends', LIMIT='0')
    assert done.returncode == TIME_IS_UP and 'run this part again' in done.stdout, done.stderr
    done = gpu_sh(tmp_path, 'backends')
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / 'backends.json').read_text())['measured']
    exact = measured['small, embedding_bag, fp32, contiguous']['error']
    assert exact.keys() == {'out', 'x', 'offset', 'mask', 'weight'} and max(exact.values()) < 1e-5
    # Nothing is measured twice.
    measured['small, embedding_bag, fp32, contiguous'] = 'kept'
    (tmp_path / 'earlier').mkdir()
    (tmp_path / 'earlier/backends.json').write_text(json.dumps({'measured': measured}))
    del measured['small, torchvision, bf16, contiguous']
    (tmp_path / 'earlier/backends.json').write_text(json.dumps({'measured': measured}))
    assert gpu_sh(tmp_path, 'backends', FROM=str(tmp_path / 'earlier')).returncode == 0
    again = json.loads((tmp_path / 'backends.json').read_text())['measured']
    assert again['small, embedding_bag, fp32, contiguous'] == 'kept'
    assert 'error' in again['small, torchvision, bf16, contiguous']


@pytest.mark.slow
def test_throughput_measures_steps_of_the_option_files_model(tmp_path):
    done = gpu_sh(tmp_path, 'throughput')
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / 'throughput.json').read_text())['measured']
    steps = {name: value for name, value in measured.items() if name.startswith('training step')}
    assert len(steps) == 5 and all(value['patches_per_s'] > 0 and value['loss'] > 0 for value in steps.values())


@pytest.mark.slow
def test_the_tests_for_a_gpu_are_found(tmp_path):
    assert gpu_sh(tmp_path, 'tests').returncode == 0
    outcomes = json.loads((tmp_path / 'tests.json').read_text())['measured']
    assert len(outcomes) > 50 and set(outcomes.values()) <= {'skipped', 'passed'}


def test_tests_that_run_out_of_time_end_without_errors(tmp_path):
    (tmp_path / 'test_two.py').write_text('def test_one(): pass\n\n\ndef test_other(): pass\n')
    code = 'import gpu, pytest, sys; recorder = gpu.Recorder(gpu.Results("tests")); '
    code += 'sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "test_two.py"], plugins=[recorder]))'
    environment = {**os.environ, 'DEVICE': 'cpu', 'OUT': str(tmp_path), 'FROM': str(tmp_path), 'LIMIT': '0'}
    environment['PYTHONPATH'] = os.pathsep.join([str(ROOT / 'benchmarks'), str(ROOT)])
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == TIME_IS_UP and 'run this part again' in done.stdout, done.stdout + done.stderr
    assert 'error' not in done.stdout.lower()


@pytest.mark.slow
def test_training_resumes_elsewhere_from_what_came_out(tmp_path, packed):
    def checkout(name):
        """As it would be carried to another machine: nothing that git ignores."""
        root = tmp_path / name
        files = subprocess.run(
            ['git', 'ls-files', '-co', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True
        )
        for file in files.stdout.splitlines():
            if (ROOT / file).is_file():
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / file, root / file)
        return root

    first, out = checkout('first'), tmp_path / 'out'
    done = gpu_sh(out, 'train', packed, root=first, LIMIT='1')
    assert done.returncode == TIME_IS_UP, done.stdout + done.stderr
    done = gpu_sh(out, 'train', packed, root=first)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (state,) = out.glob('*.state')
    assert state.name == '6.state' and (out / 'net_g_6.pth').is_file() and (out / 'net_g_latest.pth').is_file()
    assert 'iter:       6' in (out / 'train.log').read_text()
    # On a bare machine it begins where the results end.
    second = checkout('second')
    done = gpu_sh(tmp_path / 'later', 'train', packed, root=second, FROM=str(out))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert 'Resuming training from epoch' in (tmp_path / 'later/train.log').read_text()
