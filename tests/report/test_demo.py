"""The demo's data; the demo itself is `make demo`."""

import cv2
import numpy as np
import pytest
from basicsr.data import build_dataset
from basicsr.metrics import calculate_psnr

from airnet_basicsr.plugin.data.image_source import ImageSource
from airnet_basicsr.report import demo


@pytest.fixture(scope='module')
def datasets(tmp_path_factory):
    folder = tmp_path_factory.mktemp('demo') / 'demo'
    try:
        demo.photographs()
    except OSError as error:  # scikit-image downloads one of them, once
        pytest.skip(f'offline: {error}')
    demo.make_datasets(folder)
    return folder


def columns(photo, piece):
    """Where ``piece`` lies in ``photo``: its first column and the one past its last."""
    distance = cv2.matchTemplate(photo, piece, cv2.TM_SQDIFF)
    top, left = np.unravel_index(distance.argmin(), distance.shape)
    np.testing.assert_array_equal(photo[top : top + piece.shape[0], left : left + piece.shape[1]], piece)
    return left, left + piece.shape[1]


def test_training_and_validation_parts_are_disjoint(datasets):
    train, val = (ImageSource(datasets / f'clean_{part}.lmdb', 'test') for part in ('train', 'val'))
    for name, (photo, _) in demo.photographs().items():
        held_out, _ = columns(photo, val.read(name))
        tiles = [key for key in train.keys if key.startswith(name)]
        assert len(tiles) >= 4
        for key in tiles:
            assert columns(photo, train.read(key))[1] < held_out


def test_basicsr_reads_the_pairs_and_they_are_degraded(datasets):
    for kind, most in (('rain', 35), ('haze', 30)):
        for part in ('train', 'val'):
            opt = {'name': kind, 'type': 'PairedImageDataset', 'phase': 'val', 'scale': 1}
            opt['io_backend'] = {'type': 'lmdb'}
            roots = {'dataroot_gt': f'{datasets}/clean_{part}.lmdb', 'dataroot_lq': f'{datasets}/{kind}_{part}.lmdb'}
            dataset = build_dataset({**opt, **roots})
            assert len(dataset) == (39 if part == 'train' else 5)
            for item in dataset:
                gt, lq = (np.rint(item[name].numpy().transpose(1, 2, 0) * 255) for name in ('gt', 'lq'))
                assert calculate_psnr(gt, lq, crop_border=0) < most
