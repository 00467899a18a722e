"""What a test of a network or baseline leaves behind: by processes, in tiles, with values that are no numbers."""

import hashlib
import json
import logging
import os
import re
import sys
from collections import defaultdict
from pathlib import Path
from tempfile import mkdtemp

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.data import build_dataset
from basicsr.metrics import calculate_psnr
from basicsr.utils import tensor2img
from conftest import run_python, write_image, write_lmdb
from skimage.metrics import peak_signal_noise_ratio
from small_models import identity_network, save, small_network

from airnet_basicsr.errors import InputError
from airnet_basicsr.network import model_files
from airnet_basicsr.report.__main__ import write_report
from airnet_basicsr.report.pictures import choose_pictures
from airnet_basicsr.report.runs import read_run
from airnet_basicsr.test import main

NOISE = {'type': 'GaussianNoise', 'protocol': 'float'}
METRICS = {
    'psnr': {'type': 'calculate_psnr', 'crop_border': 0},
    'ssim': {'type': 'calculate_ssim', 'crop_border': 0},
    'psnr_release': {'type': 'calculate_psnr_release'},
    'ssim_release': {'type': 'calculate_ssim_release'},
}
TORCHRUN = ('-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2')


@pytest.fixture(scope='module')
def root(tmp_path_factory, photos):
    folder = tmp_path_factory.mktemp('evaluation')
    for name in ('clean', 'same'):
        write_lmdb(folder / f'{name}.lmdb', {key: photos[key] for key in list(photos)[2:5]})
    write_lmdb(folder / 'dark.lmdb', {key: photos[key] // 2 for key in list(photos)[2:5]})
    save(small_network(), folder / 'small.pth')
    return folder


def noise(folder, sigma=25):
    return {'degradation': {**NOISE, 'sigma': sigma, 'dataroot_gt': str(folder / 'clean.lmdb')}}


def pairs(folder, lq):
    roots = {'dataroot_gt': str(folder / 'clean.lmdb'), 'dataroot_lq': str(folder / f'{lq}.lmdb')}
    return {'degradation': {'type': 'PairedImages', **roots}}


def options(folder: Path, **changes) -> dict:
    datasets = changes.pop('datasets', {'noisy': noise(folder), 'dark': pairs(folder, 'dark')})
    return {
        'name': 'run',
        'model_type': 'AirNetModel',
        'scale': 1,
        'num_gpu': 0,
        'manual_seed': 0,
        'datasets': {
            f'test_{i}': {'name': name, 'type': 'DegradationTestDataset', **opt}
            for i, (name, opt) in enumerate(datasets.items())
        },
        'network_g': {'type': 'AirNet', 'num_feat': 16, 'num_group': 1, 'num_block': 1},
        'path': {'pretrain_network_g': str(folder / 'small.pth'), 'strict_load_g': True},
        'val': {'save_img': False, 'metrics': dict(METRICS)},
        **changes,
    }


def written(folder: Path, opt: dict) -> Path:
    path = folder / 'test.yml'
    path.write_text(yaml.safe_dump(opt))
    return path


@pytest.fixture
def test_run(tmp_path, root, monkeypatch):
    """Tests in this process; gives the run's lines."""

    def run(**changes):
        folder = Path(mkdtemp(dir=tmp_path))
        monkeypatch.setattr(sys, 'argv', ['test.py', '-opt', str(written(folder, options(root, **changes)))])
        main(str(folder))
        return lines(folder / 'results/run')

    return run


def lines(results: Path) -> list[dict]:
    found = [json.loads(line) for line in (results / 'per_image.jsonl').read_text().splitlines()]
    return sorted(found, key=lambda line: (line['dataset'], line['index']))


def means(found: list[dict]) -> dict[tuple[str, str], float]:
    values = defaultdict(list)
    for line in found:
        for metric, value in line['metrics'].items():
            values[line['dataset'], metric].append(value)
    return {key: np.mean(value) for key, value in values.items()}


def logged(output: str) -> dict[tuple[str, str], str]:
    """The means in the log, as they stand there."""
    found = {}
    for name, block in re.findall(r'Validation (\w+)\n((?:\s+# .*\n)+)', output):
        for metric, value in re.findall(r'# (\w+): (\S+)', block):
            found[name, metric] = value
    return found


@pytest.fixture(scope='module')
def done(root, tmp_path_factory):
    """The same test in one process and in two."""
    runs = []
    for number, program in enumerate(((), TORCHRUN)):
        folder = tmp_path_factory.mktemp('run')
        opt = options(root, val={'save_img': True, 'suffix': None, 'metrics': METRICS})
        launcher = ('--launcher', 'pytorch') if number else ()
        program += ('-m', 'airnet_basicsr.test', '-opt', written(folder, opt), *launcher)
        process = run_python(*program, cwd=folder, OMP_NUM_THREADS='1')
        assert process.returncode == 0, process.stdout[-3000:]
        runs.append((folder / 'results/run', process.stdout))
    return runs


def test_lines_average_to_what_basicsr_logs(done):
    results, output = done[0]
    of_lines, in_log = means(lines(results)), logged(output)
    assert set(of_lines) == set(in_log) and len(in_log) == 8
    for key, value in of_lines.items():
        assert f'{value:.4f}' == in_log[key]


def test_metrics_of_each_image_are_those_of_its_pictures(done, root):
    """Anew: BasicSR's PSNR from the written PNG, the release's from the network's floats, by scikit-image."""
    results, _ = done[0]
    net, opt = small_network(), options(root)['datasets']
    for line, item in zip(
        lines(results),
        [*build_dataset({**opt['test_1'], 'phase': 'test'})] + [*build_dataset({**opt['test_0'], 'phase': 'test'})],
        strict=True,
    ):
        lq, gt = item['lq'][None], item['gt'][None]
        degraded = tensor2img([lq.clone()])  # which clips in place
        picture = cv2.imread(str(results / 'visualization' / line['dataset'] / f'{line["image"]}_run.png'))
        assert line['metrics']['psnr'] == pytest.approx(calculate_psnr(picture, tensor2img([gt]), 0), abs=1e-9)
        assert line['input']['psnr'] == pytest.approx(calculate_psnr(degraded, tensor2img([gt]), 0), abs=1e-9)
        with torch.no_grad():
            restored = net(lq)
        for image, of in ((restored, 'metrics'), (lq, 'input')):
            expected = peak_signal_noise_ratio(gt.double().numpy(), image.double().clip(0, 1).numpy(), data_range=1)
            assert line[of]['psnr_release'] == pytest.approx(expected, abs=1e-4)
        assert line['size'] == [96, 104] and line['seconds'] > 0


def test_each_number_carries_its_protocol(done):
    noisy = [line for line in lines(done[0][0]) if line['dataset'] == 'noisy']
    for line in noisy:
        assert line['degradation'] == {'type': 'GaussianNoise', 'sigma': 25}
        assert (line['protocol'], line['seed'], line['crop_multiple']) == ('float', 0, 1)


def test_what_was_tested_is_written_down(done, root):
    run = json.loads((done[0][0] / 'run.json').read_text())
    sha256 = hashlib.sha256((root / 'small.pth').read_bytes()).hexdigest()
    assert run['checkpoint'] == {'path': str(root / 'small.pth'), 'sha256': sha256}
    assert run['options']['network_g']['num_feat'] == 16 and run['option_file'].endswith('test.yml')
    assert run['versions']['torch'] == torch.__version__
    assert run['parameters'] == sum(parameter.numel() for parameter in small_network().parameters())


def test_embeddings_are_the_encoder_s(done, root):
    found = np.load(done[0][0] / 'embeddings.npz')
    opt = options(root)['datasets']['test_0']
    with torch.no_grad():
        expected = [
            small_network()(item['lq'][None], encode=True, restore=False).embedding[0]
            for item in build_dataset({**opt, 'phase': 'test'})
        ]
    np.testing.assert_allclose(found['embedding'][found['dataset'] == 'noisy'], torch.stack(expected), atol=1e-5)
    assert found['embedding'].shape == (6, 64)


def test_two_processes_write_what_one_does(done):
    one, two = (lines(results) for results, _ in done)
    for line in one + two:
        del line['seconds']
    assert one == two
    assert logged(done[0][1]) == logged(done[1][1])
    one, two = (np.load(results / 'embeddings.npz') for results, _ in done)
    for name in ('embedding', 'dataset', 'image', 'scene'):
        np.testing.assert_array_equal(one[name], two[name])


def test_in_tiles_as_in_one_piece(done, test_run, tmp_path, root, photos):
    larger = np.concatenate([photos['chelsea4'], photos['coffee2']])
    write_lmdb(tmp_path / 'clean.lmdb', {'larger': np.concatenate([larger, larger], 1)})
    whole, tiled = (
        test_run(datasets={'noisy': noise(tmp_path)}, val={'metrics': METRICS, 'save_img': False, **tile})
        for tile in ({}, {'tile': 112})
    )
    assert (whole[0]['tile'], tiled[0]['tile']) == (None, 112)
    for metric, value in whole[0]['metrics'].items():
        assert tiled[0]['metrics'][metric] == pytest.approx(value, abs=1e-3)


def test_kept_pictures_of_one_name_do_not_overwrite_each_other(root, tmp_path, photos, monkeypatch):
    names = {'day/street': 'coffee2', 'night/house': 'rocket6', 'night/street': 'chelsea4'}
    for name, photo in names.items():
        write_image(tmp_path / f'images/{name}.png', photos[photo])
    folders = {'degradation': {**NOISE, 'sigma': 25, 'dataroot_gt': str(tmp_path / 'images')}}
    val = {'save_img': True, 'metrics': {'psnr': METRICS['psnr']}}
    opt = options(root, datasets={'set': folders}, val=val, model_type='NoRestoration')
    monkeypatch.setattr(sys, 'argv', ['test.py', '-opt', str(written(tmp_path, opt))])
    main(str(tmp_path))
    results = tmp_path / 'results/run'
    found = lines(results)
    assert len({line['picture'] for line in found}) == len(list((results / 'visualization/set').iterdir())) == 3
    for line, photo in zip(found, names.values(), strict=True):
        kept = cv2.imread(str(results / 'visualization/set' / line['picture']))
        clean = cv2.cvtColor(photos[photo], cv2.COLOR_RGB2BGR)
        assert calculate_psnr(kept, clean, crop_border=0) == pytest.approx(line['metrics']['psnr'], abs=1e-6)
    (picture,), _ = choose_pictures([read_run(results)])
    assert picture['reason'] is None and picture['choices']
    opt['datasets']['test_1'] = opt['datasets']['test_0']
    written(tmp_path, opt)
    with pytest.raises(InputError, match='test_0 and test_1 are both named set'):
        main(str(tmp_path))


def test_names_that_are_no_text_are_tested_and_kept(root, tmp_path, photos):
    """In a process of its own: OpenCV ends one that gives it such a name."""
    write_image(tmp_path / 'images/plain.png', photos['coffee2'])
    os.rename(tmp_path / 'images/plain.png', os.fsencode(tmp_path / 'images') + b'/caf\xe9.png')
    sets = {'set': {'degradation': {**NOISE, 'sigma': 25, 'dataroot_gt': str(tmp_path / 'images')}}}
    val = {'save_img': True, 'metrics': {'psnr': METRICS['psnr']}}
    opt = options(root, datasets=sets, val=val, model_type='NoRestoration')
    done = run_python('-m', 'airnet_basicsr.test', '-opt', written(tmp_path, opt), cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    results = tmp_path / 'results/run'
    (line,) = lines(results)
    assert (results / 'visualization/set' / line['picture']).is_file()
    # Neither is the report stopped by it.
    write_report([read_run(results)], tmp_path / 'report')
    assert 'caf\\udce9' in (tmp_path / 'report/report.json').read_text()


def test_no_restoration(test_run):
    found = test_run(model_type='NoRestoration')
    assert len(found) == 6
    for line in found:
        assert line['metrics'] == line['input']
    # Gaussian noise of 25: 20.17 dB, and what clipping takes away.
    noisy = [line['metrics']['psnr'] for line in found if line['dataset'] == 'noisy']
    assert 20.1 < np.mean(noisy) < 21.5


def test_cbm3d(test_run, root, tmp_path, photos):
    pytest.importorskip('bm3d')
    write_lmdb(tmp_path / 'clean.lmdb', {'coffee2': photos['coffee2'][:48, :48]})
    (line,) = test_run(model_type='CBM3D', datasets={'noisy': noise(tmp_path)})
    assert line['metrics']['psnr'] > line['input']['psnr'] + 5
    with pytest.raises(InputError, match=r'dataset dark: CBM3D needs the noise level.*PairedImages.*leave it out'):
        test_run(model_type='CBM3D')


def test_values_that_are_no_numbers_are_kept_as_such(test_run, tmp_path, root, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger('basicsr'), 'propagate', True)  # to where pytest listens
    broken = small_network()
    broken.restorer.tail.bias.data[0] = float('nan')
    save(broken, tmp_path / 'broken.pth')
    found = test_run(path={'pretrain_network_g': str(tmp_path / 'broken.pth')}, datasets={'noisy': noise(root)})
    assert [line['metrics']['psnr_release'] for line in found] == ['nan'] * 3
    assert caplog.text.count('is nan, and so is the mean') >= 3
    # And a perfect one.
    save(identity_network(), tmp_path / 'identity.pth')
    net = {'type': 'AirNet', 'num_feat': 8, 'num_group': 1, 'num_block': 1}
    found = test_run(
        path={'pretrain_network_g': str(tmp_path / 'identity.pth')},
        network_g=net,
        datasets={'same': pairs(root, 'same')},
    )
    assert [line['metrics']['psnr'] for line in found] == ['inf'] * 3


def test_a_file_for_inference_only_is_tested_without_embeddings(test_run, tmp_path, root):
    model_files.slim(str(root / 'small.pth'), str(tmp_path / 'slim.safetensors'))
    sets = {'noisy': noise(root)}
    whole, slim = (
        test_run(path={'pretrain_network_g': str(path)}, datasets=sets)
        for path in (root / 'small.pth', tmp_path / 'slim.safetensors')
    )
    for line, same in zip(whole, slim, strict=True):
        assert same['metrics']['psnr'] == pytest.approx(line['metrics']['psnr'], abs=0.05)
    assert len(list(tmp_path.glob('*/results/run/embeddings.npz'))) == 1


def test_other_networks_of_basicsr(test_run, caplog):
    logging.getLogger('basicsr').addHandler(caplog.handler)
    net = {'type': 'RIDNet', 'in_channels': 3, 'mid_channels': 16, 'out_channels': 3, 'num_block': 1}
    found = test_run(model_type='RestorationModel', network_g=net, path={'pretrain_network_g': None})
    assert len(found) == 6 and all(-10 < line['metrics']['psnr'] < 60 for line in found)
    assert 'names no checkpoint: the network is an untrained one' in caplog.text


def test_bad_input(test_run, root, tmp_path):
    for message, changes in (
        (
            r'val:metrics:psnr:type: there is no .calculate_pnsr',
            {'val': {'save_img': False, 'metrics': {'psnr': {'type': 'calculate_pnsr'}}}},
        ),
        (
            r'network_g: unknown key `num_feats`. Did you mean `num_feat`',
            {'network_g': {'type': 'AirNet', 'num_feats': 16}},
        ),
        (r'val:tile: 50 is too small', {'val': {'save_img': False, 'tile': 50}}),
        (r'network_g: expected a mapping', {'network_g': None}),
        (r'nowhere.pth', {'path': {'pretrain_network_g': 'nowhere.pth'}}),
        (r'small.pth', {'network_g': {'type': 'AirNet', 'num_feat': 8, 'num_group': 1, 'num_block': 1}}),
    ):
        with pytest.raises(InputError, match=message):
            test_run(**changes)


def test_a_metric_that_needs_clean_images_of_a_set_without(test_run, root, tmp_path, photos):
    for key, image in photos.items():
        (tmp_path / 'lq').mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / 'lq' / f'{key}.png'), image)
    without = {'type': 'SingleImageDataset', 'dataroot_lq': str(tmp_path / 'lq'), 'io_backend': {'type': 'disk'}}
    with pytest.raises(InputError, match='dataset own has no clean images, which the metric psnr'):
        test_run(datasets={'own': without})


def test_baselines_are_not_trained(root):
    from basicsr.models import build_model

    with pytest.raises(InputError, match='NoRestoration has nothing to train'):
        build_model({**options(root), 'model_type': 'NoRestoration', 'is_train': True, 'dist': False, 'rank': 0})
