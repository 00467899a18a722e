"""A trained network's card and learning curves: by the commands, from what the training and the test left."""

import hashlib
import re
import shutil

import pytest
import torch
import yaml
from conftest import ROOT, run_python
from small_run import write_options

from airnet_basicsr.errors import InputError
from airnet_basicsr.report.card import write_card
from airnet_basicsr.report.curves import Curves, draw_curves, read_curves
from airnet_basicsr.report.runs import read_runs


@pytest.fixture(scope='module')
def trained(tmp_path_factory, paper_datasets):
    """A working directory with a training run named ``run`` and a test of its network; the test's log."""
    folder = tmp_path_factory.mktemp('card')
    (folder / 'datasets').symlink_to(paper_datasets / 'datasets')
    (folder / 'basicsr').mkdir()
    shutil.copy(ROOT / 'basicsr/test.py', folder / 'basicsr')
    options = write_options(folder, total_iter=20, use_tb_logger='true')
    done = run_python('-m', 'airnet_basicsr.train', '-opt', options, cwd=folder, OMP_NUM_THREADS='1')
    assert done.returncode == 0, done.stdout[-3000:]
    described = yaml.full_load(options.read_text())
    test = {key: described[key] for key in ('model_type', 'scale', 'num_gpu', 'manual_seed', 'network_g', 'val')}
    test |= {'name': 'tested', 'datasets': {'test': described['datasets']['val']}}
    test['path'] = {'pretrain_network_g': 'experiments/run/models/net_g_latest.pth', 'param_key_g': 'params_ema'}
    plugin = "plugin: !!python/name:airnet_basicsr.plugin.__name__ ''\n"
    (folder / 'test.yml').write_text(plugin + yaml.safe_dump(test, sort_keys=False))
    done = run_python('basicsr/test.py', '-opt', 'test.yml', cwd=folder, OMP_NUM_THREADS='1')
    assert done.returncode == 0, done.stdout[-3000:]
    return folder, done.stdout


def test_card(trained):
    folder, printed = trained
    (folder / 'about.md').write_text('# A network for tests\n\nIts limits are many.\n')
    model = 'experiments/run/models/net_g_latest.pth'
    command = ['-m', 'airnet_basicsr.report.card', model, '--training', 'experiments/run', '--tests', 'results/tested']
    done = run_python(*command, '--about', 'about.md', '-o', 'card.md', cwd=folder)
    assert done.returncode == 0, done.stdout
    card = (folder / 'card.md').read_text()
    assert card.startswith('# A network for tests\n\nIts limits are many.\n')
    assert hashlib.sha256((folder / model).read_bytes()).hexdigest() in card
    assert '20 iterations of 2 patches of 24 x 24 pixels' in card
    # Of the machine that trained, as its log has it, not of the one that writes the card.
    log = next((folder / 'experiments/run').glob('train_*.log'))
    hardware = re.search(r'Hardware: (.+)', log.read_text())[1]
    assert f'hardware: {hardware}; 1 process(es); PyTorch {torch.__version__}' in card
    assert 'data, noise: GaussianNoise, sigma 25, dataroot_gt datasets/BSD400.lmdb' in card
    (psnr,) = re.findall(r'# psnr: ([\d.]+)', printed)
    assert re.search(r'\| [\d.]+ \| [+-][\d.]+ dB \| \d+% \| ([\d.]+ dB|none) \|', card)  # restored, gain, harm
    assert f'| {float(psnr):.2f} |' in card.partition('## Measured')[2]
    # The average is tested and validated alike, so the curve ends in the test's value.
    assert re.search(rf'\| 20 \| {float(psnr):.2f} \|', card)
    runs, about = read_runs([str(folder / 'results/tested')]), folder / 'about.md'
    arguments = [folder / model, [folder / 'experiments/run'], runs, about, folder / 'card.md']
    log.write_text(log.read_text().replace(hardware, '8 x NVIDIA A100').replace('PyTorch: 2', 'PyTorch: 1.2'))
    option_file = next((folder / 'experiments/run').glob('*.yml'))
    option_file.write_text(option_file.read_text().replace('num_gpu: 0', 'num_gpu: auto'))
    write_card(*arguments)
    assert 'hardware: 8 x NVIDIA A100; 1 process(es); PyTorch 1.2' in (folder / 'card.md').read_text()
    arguments[1] *= 2
    write_card(*arguments)
    parts = (folder / 'card.md').read_text().split('## Training, part ')
    assert len(parts) == 3 and all('20 iterations of 2 patches' in part for part in parts[1:])
    without = option_file.read_text().replace('use_tb_logger: true', 'use_tb_logger: false')
    option_file.write_text(without)
    write_card(*arguments)
    assert 'false' in without and 'Learning curve' not in (folder / 'card.md').read_text()
    done = run_python(*command, '--about', 'nowhere.md', '-o', 'card.md', cwd=folder)
    assert done.returncode == 1 and 'nowhere.md' in done.stdout and 'Traceback' not in done.stdout


def test_curves(trained):
    folder, _ = trained
    assert [step for step, _ in read_curves(folder / 'tb_logger/run').validation['val', 'psnr']] == [10, 20]
    done = run_python('-m', 'airnet_basicsr.report.curves', 'tb_logger/run', '-o', 'curves.svg', cwd=folder)
    assert done.returncode == 0, done.stdout
    drawn = (folder / 'curves.svg').read_text()
    assert drawn.startswith('<svg') and 'PSNR' in drawn and '>val<' in drawn
    done = run_python('-m', 'airnet_basicsr.report.curves', 'tb_logger/run', '--metric', 'x', '-o', 'x.svg', cwd=folder)
    assert done.returncode == 1 and 'choose one of psnr' in done.stdout and 'Traceback' not in done.stdout
    with pytest.raises(InputError, match='use_tb_logger: true'):
        read_curves(folder / 'results')


def test_curves_of_several_training_runs():
    """Each is in the legend, whatever its name and whichever sets it was validated on."""
    points = [(10, 20.0), (20, 21.0)]
    first = Curves('_first $x_$', {('a', 'psnr'): points, ('b', 'psnr'): points}, 1.0)
    second = Curves('second', {('a', 'psnr'): points}, 1.0)
    drawn = draw_curves([first, second], 'psnr')
    assert '_first $x_$</text>' in drawn and '>second</text>' in drawn
    with pytest.raises(InputError, match='--metric ssim: second was not validated by it; choose one of psnr'):
        draw_curves([first._replace(validation={('a', 'ssim'): points}), second], 'ssim')
    with pytest.raises(InputError, match="two training runs are named 'second'"):
        draw_curves([second, first, second], 'psnr')


def test_curves_of_more_runs_than_colours_differ():
    runs = [Curves(f'run{i}', {('a', 'psnr'): [(10, 20.0)]}, 1.0) for i in range(9)]
    drawn = draw_curves(runs, 'psnr').partition('id="legend_1"')[0]
    # A marker's name in the file tells its shape and colour; those of the two axes' ticks are among them.
    assert len(set(re.findall(r'xlink:href="#(m\w+)"', drawn))) == 9 + 2
