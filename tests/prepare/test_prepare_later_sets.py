"""Sets that came after AirNet, in each layout: recognised, written, verified, read. Pictures and counts are small."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from building import content, photographs, save
from later_layouts import LAYOUTS, Made, make_download

from airnet_basicsr.plugin.data.degradations import build_degradation
from airnet_basicsr.prepare import command
from airnet_basicsr.prepare.layouts import CDD11


def run(monkeypatch, *words: object) -> int:
    monkeypatch.setattr(sys, 'argv', ['prepare', *map(str, words)])
    return command.main()


@pytest.mark.parametrize('layout', LAYOUTS, ids=lambda layout: f'{layout.dataset}, {layout.said}')
def test_each_layout(layout: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    made = make_download(tmp_path / 'download', layout)
    # What lies beside them and is no part of the set.
    save(tmp_path / 'download' / 'mask' / 'other.png', photographs(1)[0])
    words = (layout.dataset, '--source', tmp_path / 'download', '--out', tmp_path / 'out', '--workers', 1)
    assert run(monkeypatch, *words) == 0
    assert run(monkeypatch, 'verify', tmp_path / 'out', '--workers', 1) == 0
    assert layout.said in capsys.readouterr().out
    *gt, last = sorted((tmp_path / 'out').iterdir())
    assert sorted(content(last)[0]) == sorted(pair.key.encode() for pair in made)
    if not gt:
        return
    roots = {'dataroot_gt': str(*gt), 'dataroot_lq': str(last)}
    pairs = build_degradation({'type': 'PairedImages', **roots}, 'datasets:train:degradations:x')
    assert len(pairs) == len(made)
    read = {Path(pairs.path(index)).stem: pairs.load(index) for index in range(len(pairs))}
    for pair in made:
        for found, file in zip(read[pair.key], (pair.clean, pair.degraded), strict=True):
            np.testing.assert_array_equal(found[..., ::-1], cv2.imread(str(file)))


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
        assert [line.split(' as ')[1].split('/')[-1] for line in said.splitlines()[:2]] == ['1.png', '2.png']
    assert run(monkeypatch, 'leaks', '--train', tmp_path / 'train', '--test', tmp_path / 'train', '--workers', 1) == 1
