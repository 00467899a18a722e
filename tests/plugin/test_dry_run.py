"""The cost of a training run, as printed before it starts."""

import re

from conftest import ROOT, run_python, write_image

SMALL = ('num_gpu=0', 'datasets:train:gt_size=24', 'datasets:train:num_worker_per_gpu=0')


def test_costs_of_the_paper_s_training(paper_datasets, tmp_path):
    (tmp_path / 'datasets').symlink_to(paper_datasets / 'datasets')
    options = ('-opt', ROOT / 'options/train_airnet_aio.yml', '--dry-run', '--force_yml', *SMALL)
    done = run_python('-m', 'airnet_basicsr.train', *options, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    rates = {
        stage: (float(rate), int(count.replace(',', '')))
        for stage, rate, count in re.findall(r'(encoder|joint) .*?([\d.]+) iterations/s, ([\d,]+) iter', done.stdout)
    }
    assert rates['encoder'][1] == 40_000 and rates['joint'][1] == 360_000
    assert rates['encoder'][0] > rates['joint'][0] > 0
    assert re.search(r'parameters +7,610,377', done.stdout)
    # Network 30.7 MB, its two moments twice that, key encoder and queue 6.6 MB; 40 of them.
    size, total = re.search(r'40 checkpoints of (\d+) MiB: ([\d.]+) GiB', done.stdout).groups()
    assert 80 < int(size) < 110 and abs(float(total) - 40 * int(size) / 1024) < 0.03
    assert [path.name for path in tmp_path.iterdir()] == ['datasets']


def test_a_broken_image_is_named_and_nothing_is_said_to_be_saved(paper_datasets, photos, tmp_path):
    (tmp_path / 'datasets').symlink_to(paper_datasets / 'datasets')
    for name, image in photos.items():
        write_image(tmp_path / f'photos/{name}.png', image)
    broken = tmp_path / 'photos/rocket6.png'
    broken.write_bytes(broken.read_bytes()[:9000])
    text = (ROOT / 'options/train_airnet_aio.yml').read_text()
    (tmp_path / 'run.yml').write_text(text.replace('datasets/BSD400.lmdb', 'photos'))
    options = ('-opt', 'run.yml', '--dry-run', '--force_yml', *SMALL, 'network_g:num_group=1')
    done = run_python('-m', 'airnet_basicsr.train', *options, cwd=tmp_path)
    assert done.returncode == 1
    assert 'image photos/rocket6.png cannot be decoded' in done.stdout
    assert 'raining continues' not in done.stdout and 'auto_resume' not in done.stdout
