"""Sets that came after AirNet, in each layout: recognised, written, verified, read. Pictures and counts are small."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from building import content, photographs, save

from airnet_basicsr.plugin.data.degradations import build_degradation
from airnet_basicsr.prepare import command
from airnet_basicsr.prepare.layouts import CDD11

# Dataset, files of a pair (clean, degraded), the keys that they get, what is said of the layout.
LAYOUTS = [
    ('gopro-train', 'train/GOPR0372_07_00/sharp/00004{}.png', 'train/GOPR0372_07_00/blur/00004{}.png',
     'GOPR0372_07_00_00004{}', 'SEQUENCE/blur,'),
    ('gopro-gamma-train', 'train/GOPR0372_07_00/sharp/00004{}.png', 'train/GOPR0372_07_00/blur_gamma/00004{}.png',
     'GOPR0372_07_00_00004{}', 'blur_gamma'),
    ('gopro-test', 'target/GOPR0384_11_00-00000{}.png', 'input/GOPR0384_11_00-00000{}.png',
     'GOPR0384_11_00_00000{}', 'pairs (input, target)'),
    ('gopro-train', 'target_crops/GOPR0384_11_00-00000{}_s001.png', 'input_crops/GOPR0384_11_00-00000{}_s001.png',
     'GOPR0384_11_00_00000{}_s001', 'crops'),
    ('lol-train', 'our485/high/{}.png', 'our485/low/{}.png', '{}', 'our485'),
    ('lol-test', 'eval15/high/{}.png', 'eval15/low/{}.png', '{}', 'eval15'),
    ('rain100h-train', 'rain_data_train_Heavy/norain/norain-{}x2.png', 'rain_data_train_Heavy/rain/norain-{}x2.png',
     '00{}', 'rain, norain'),
    ('rain100h-test', 'norain-00{}.png', 'rainy/rain-00{}.png', '00{}', 'rainy, norain-NNN'),
    ('snow100k-train', 'all/gt/city_read_0000{}.jpg', 'all/synthetic/city_read_0000{}.jpg',
     'city_read_0000{}', 'gt, synth'),
    ('snow100k-test', 'Snow100K-L/gt/winter_{}.jpg', 'Snow100K-L/synthetic/winter_{}.jpg', 'winter_{}', 'gt, synth'),
    ('raindrop-train', 'train/gt/{}_clean.png', 'train/data/{}_rain.png', '{}', 'gt, data'),
    ('raindrop-test', 'test_a/gt/{}_clean.png', 'test_a/data/{}_rain.png', '{}', 'gt, data'),
    ('outdoor-rain-train', 'train/gt/im_000{}.png', 'train/in/im_000{}_s80_a04.png', 'im_000{}_s80_a04', 'gt, in'),
    ('sots-outdoor', 'gt/000{}_0.8_0.2.jpg', 'hazy/000{}_0.8_0.2.jpg', '000{}_0p8_0p2', 'equal names'),
    ('cdd11-train', 'train/clear/0000{}.png', 'train/low_haze/0000{}.png', 'low_haze_0000{}', 'clear, low, haze'),
    ('cdd11-test', 'target/haze_0000{}.png', 'input/haze_0000{}.png', 'haze_0000{}', 'flat'),
]  # fmt: skip


def run(monkeypatch, *words: object) -> int:
    monkeypatch.setattr(sys, 'argv', ['prepare', *map(str, words)])
    return command.main()


@pytest.mark.parametrize('number', range(len(LAYOUTS)))
def test_each_layout(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    dataset, clean, degraded, key, said = LAYOUTS[number]
    pictures = photographs(2)
    for place, image in enumerate(pictures, 1):
        save(tmp_path / 'download' / clean.format(place), image)
        save(tmp_path / 'download' / degraded.format(place), np.uint8(image // 2 + 50))
    # What lies beside the pairs and is no part of them.
    save(tmp_path / 'download' / 'mask' / 'other.png', pictures[0])
    assert run(monkeypatch, dataset, '--source', tmp_path / 'download', '--out', tmp_path / 'out', '--workers', 1) == 0
    assert run(monkeypatch, 'verify', tmp_path / 'out', '--workers', 1) == 0
    assert said in capsys.readouterr().out
    gt, lq = sorted((tmp_path / 'out').iterdir())
    assert sorted(content(lq)[0]) == [key.format(place).encode() for place in (1, 2)]
    roots = {'dataroot_gt': str(gt), 'dataroot_lq': str(lq)}
    pairs = build_degradation({'type': 'PairedImages', **roots}, 'datasets:train:degradations:x')
    assert len(pairs) == 2
    for index in range(2):
        first, second = (image.astype(float) for image in pairs.load(index))
        assert np.abs(second - (first // 2 + 50)).mean() < 3  # what JPEG changes


def test_all_combinations_of_cdd11_share_their_clean_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, image in enumerate(photographs(2, 40, 48)):
        save(tmp_path / 'cdd' / 'test' / 'clear' / f'{place:05d}.png', image)
        for shade, kind in enumerate(CDD11):
            save(tmp_path / 'cdd' / 'test' / kind / f'{place:05d}.png', np.uint8(image // 2 + 8 * shade))
    assert run(monkeypatch, 'cdd11-test', '--source', tmp_path / 'cdd', '--out', tmp_path / 'out', '--workers', 1) == 0
    gt, lq = (tmp_path / 'out' / f'CDD11_test_{kind}.lmdb' for kind in ('gt', 'lq'))
    assert len(content(gt)[0]) == 2 and len(content(lq)[0]) == 22
    for shade, kind in enumerate(CDD11):
        opt = {'type': 'PairedImages', 'dataroot_gt': str(gt), 'dataroot_lq': str(lq), 'only': rf'{kind}_\d+'}
        pairs = build_degradation(opt, 'datasets:test_1:degradation')
        assert len(pairs) == 2
        clean, degraded = pairs.load(1)
        np.testing.assert_array_equal(degraded, clean // 2 + 8 * shade)


def test_the_two_versions_of_rain100l_are_told_apart(capsys) -> None:
    from airnet_basicsr.prepare.layouts import DATASETS, Found

    files = [(f'{i}.png', f'{i}', f'{i}') for i in range(1800)]
    command._say(Found('x', ('a', 'b'), (files, files), False, 0), DATASETS['rain100l-train'])
    assert 'two versions' in capsys.readouterr().out


def test_test_pictures_that_a_training_set_shows_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    pictures = photographs(8)
    for number, image in enumerate(pictures[:4]):
        save(tmp_path / 'train' / f'{number}.png', image)
    save(tmp_path / 'test' / 'small.jpg', cv2.resize(pictures[1], None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA))
    save(tmp_path / 'test' / 'turned.png', np.rot90(pictures[2]).copy())
    for number, image in enumerate(pictures[5:]):
        save(tmp_path / 'test' / f'other{number}.png', image)
    assert (
        run(monkeypatch, 'clean', '--name', 'T', '--source', tmp_path / 'test', '--out', tmp_path, '--workers', 1) == 0
    )
    for test in ('test', 'T.lmdb'):
        capsys.readouterr()
        assert run(monkeypatch, 'leaks', '--train', tmp_path / 'train', '--test', tmp_path / test, '--workers', 1) == 1
        said = capsys.readouterr().out
        assert '2 of the test pictures' in said and 'other' not in said
        assert [line.split('shows')[1].split('/')[-1] for line in said.splitlines()[:2]] == ['1.png does', '2.png does']
    assert run(monkeypatch, 'leaks', '--train', tmp_path / 'train', '--test', tmp_path / 'train', '--workers', 1) == 1
