"""Synthetic rain and haze, and noisy test sets as files."""

import hashlib
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from building import photographs, prepare, save

from airnet_basicsr.plugin.data import synthesis
from airnet_basicsr.plugin.data.degradation_test_dataset import DegradationTestDataset


@pytest.fixture(scope='module')
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('clean')
    for number, image in enumerate(photographs(4)):
        save(folder / f'photo{number}.{"jpg" if number else "png"}', image)
    return folder


def _files(folder: Path) -> dict[str, str]:
    paths = (path for path in folder.rglob('*') if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return cv2.PSNR(a, b)


def test_rain_is_prepared_like_rain100l(clean: Path, tmp_path: Path) -> None:
    for out, options in (('one', ('--workers', 1)), ('three', ('--workers', 3)), ('other', ('--seed', 1))):
        done = prepare('synthesize', 'rain', '--source', clean, '--out', tmp_path / out, *options)
        assert done.returncode == 0, done.stderr
    assert _files(tmp_path / 'one') == _files(tmp_path / 'three')
    assert _files(tmp_path / 'one') != _files(tmp_path / 'other')
    rainy, gt = (cv2.imread(str(tmp_path / 'one' / name)) for name in ('rainy/rain-1.png', 'gt/norain-1.png'))
    np.testing.assert_array_equal(gt, photographs(1)[0])
    assert (rainy >= gt).all() and 22 < _psnr(rainy, gt) < 32
    done = prepare('rain100l-train', '--source', tmp_path / 'one', '--out', tmp_path / 'datasets')
    assert done.returncode == 0 and '4 pairs' in done.stdout
    assert prepare('synthesize', 'rain', '--source', clean, '--out', tmp_path / 'one').returncode == 1


def test_haze_over_a_given_depth_mixed_with_rain_and_noise(clean: Path, tmp_path: Path) -> None:
    (tmp_path / 'depth').mkdir()
    depth = np.tile(np.linspace(2, 20, 160, dtype=np.float32), (140, 1))
    for number in range(4):
        np.save(tmp_path / 'depth' / f'photo{number}.npy', depth)
    options = ('--per-image', 35, '--depth', tmp_path / 'depth')
    done = prepare('synthesize', 'haze', '--source', clean, '--out', tmp_path / 'out', *options)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / 'out/haze/part1').iterdir())) == 4 * 35
    transmission = np.exp(-0.16 * depth)[..., None]
    expected = photographs(1)[0] * transmission + 255 * 0.95 * (1 - transmission)
    hazy = cv2.imread(str(tmp_path / 'out/haze/part1/0001_0.95_0.16.jpg'))
    assert np.abs(hazy - expected).mean() < 2  # what JPEG changes
    done = prepare('ots', '--source', tmp_path / 'out', '--out', tmp_path / 'datasets')
    assert done.returncode == 0 and '140 pairs from 4 clean images' in done.stdout

    words = ('noise', 'rain', 'haze', '--sigma', 25, 25)
    done = prepare('synthesize', *words, '--source', clean, '--out', tmp_path / 'mixed', *options[2:])
    assert done.returncode == 0, done.stderr
    mixed = list((tmp_path / 'mixed/haze/part1').iterdir())
    assert len(mixed) == 4
    for path in mixed:
        hazy = cv2.imread(str(tmp_path / 'out/haze/part1' / path.name))
        assert 15 < _psnr(cv2.imread(str(path)), hazy) < 24

    (tmp_path / 'depth' / 'photo2.npy').unlink()
    done = prepare('synthesize', 'haze', '--source', clean, '--out', tmp_path / 'less', *options)
    assert done.returncode == 1 and 'photo2' in done.stderr and 'Traceback' not in done.stderr


def test_noisy_files_are_what_validation_sees(clean: Path, tmp_path: Path) -> None:
    source = tmp_path / 'source'
    shutil.copytree(clean, source)
    save(source / 'deep' / 'photo 0.5.png', photographs(5)[4])
    done = prepare('noisy', '--source', source, '--out', tmp_path / 'out', '--spatial', '--sigma', 25)
    assert done.returncode == 0, done.stderr
    (source / 'deep' / 'photo 0.5.png').rename(source / 'deep_photo_0p5.png')  # its key
    kinds = {'sigma25': {'type': 'GaussianNoise', 'sigma': 25}, 'spatial': {'type': 'SpatiallyVariantNoise'}}
    for folder, kind in kinds.items():
        noise = {**kind, 'dataroot_gt': str(source)}
        items = list(DegradationTestDataset({'phase': 'test', 'name': 'x', 'degradation': noise}))
        assert len(items) == len(list((tmp_path / 'out' / folder).iterdir())) == 5
        for item in items:
            name = f'{Path(item["lq_path"]).stem}.png'
            for tensor, written in (('lq', folder), ('gt', 'gt')):
                image = cv2.imread(str(tmp_path / 'out' / written / name))[..., ::-1]
                np.testing.assert_allclose(image, item[tensor].numpy().transpose(1, 2, 0) * 255, atol=1e-3)
    done = prepare('noisy', '--source', clean, '--out', tmp_path / 'none', '--sigma')
    assert done.returncode == 1 and 'nothing to write' in done.stderr


def test_haze_and_rain_at_their_limits() -> None:
    photo = photographs(1)[0]
    rng = np.random.RandomState(0)
    np.testing.assert_array_equal(synthesis.add_rain(photo, rng, density=0.0), photo)
    np.testing.assert_array_equal(synthesis.add_haze(photo, np.zeros(photo.shape[:2]), 0.8, 0.2), photo)
    assert (synthesis.add_haze(photo, np.full(photo.shape[:2], np.inf), 0.8, 0.2) == 204).all()


def test_estimated_depth_gives_haze_like_reside() -> None:
    for photo in photographs(4, 280, 420):
        depth = synthesis.estimate_depth(photo)
        assert depth.shape == photo.shape[:2] and depth.min() >= 2 and depth.max() <= 20
        assert depth[:70].mean() > depth[-70:].mean()
        hazy = [_psnr(synthesis.add_haze(photo, depth, 0.9, beta), photo) for beta in synthesis.RESIDE_BETAS]
        assert hazy == sorted(hazy, reverse=True) and hazy[-1] > 8 and hazy[0] < 30
