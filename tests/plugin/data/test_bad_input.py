"""What a user can get wrong in options and images: one message each, naming the key or the file."""

import re

import cv2
import numpy as np
import PIL.Image
import pytest
from basicsr.data import build_dataset
from conftest import write_image, write_lmdb

from airnet_basicsr.errors import InputError


@pytest.fixture
def root(tmp_path, photos):
    for name, image in list(photos.items())[:3]:
        write_image(tmp_path / 'clean' / f'{name}.png', image)
        write_image(tmp_path / 'rain' / f'{name}.png', 255 - image)
    return tmp_path


def build(root, noise=None, paired=None, **changes):
    degradations = {
        'noise': {'type': 'GaussianNoise', 'sigma': 25, 'dataroot_gt': str(root / 'clean'), **(noise or {})},
        'rain': {
            'type': 'PairedImages',
            'dataroot_gt': str(root / 'clean'),
            'dataroot_lq': str(root / 'rain'),
            **(paired or {}),
        },
    }
    opt = {
        'name': 'x',
        'type': 'MultiDegradationDataset',
        'phase': 'train',
        'gt_size': 32,
        'degradations': degradations,
    }
    dataset = build_dataset({**opt, **changes})
    return [dataset[index] for index in range(len(dataset))]


def refused(message, *arguments, **changes):
    with pytest.raises(InputError, match=message):
        build(*arguments, **changes)


def test_good_input_passes(root):
    assert len(build(root)) == 3


def test_options(root):
    refused('option datasets:train: unknown key `gtsize`. Did you mean `gt_size`', root, gtsize=3)
    refused('datasets:train:degradations:noise: unknown key `sigm`. Did you mean `sigma`', root, noise={'sigm': 3})
    refused('datasets:train:degradations:rain:type: there is no degradation .Fog.', root, paired={'type': 'Fog'})
    refused('noise:sigma: expected a number', root, noise={'sigma': 'high'})
    for wrong in ([15], [50, 15], [0, 300]):
        refused('noise:sigma: expected .from, to.', root, noise={'sigma': wrong})
    refused(
        'noise: SpatiallyVariantNoise is for test images', root, noise={'type': 'SpatiallyVariantNoise', 'sigma': 1}
    )
    refused('noise:protocol: expected `uint8` or `float`, found .int8.', root, noise={'protocol': 'int8'})
    refused('datasets:train: the key `gt_size` is missing', root, gt_size=None)
    refused('rain: the key `dataroot_lq` is missing', root, paired={'dataroot_lq': None})
    for empty in ({}, None):
        refused('datasets:train:degradations is empty', root, degradations=empty)
    refused('datasets:train:degradations: expected a mapping', root, degradations=['noise'])
    with pytest.raises(
        InputError, match=r'datasets:val \(Kodak\): unknown key `degradations`. Did you mean `degradation`'
    ):
        build_dataset({'name': 'Kodak', 'type': 'DegradationTestDataset', 'phase': 'val', 'degradations': {}})
    of_tests = (
        ({'type': 'GaussianNoise', 'sigma': [15, 50]}, 'sigma: a range is for training'),
        ({'type': 'SpatiallyVariantNoise', 'sigmas': [15, 25, 50]}, 'sigmas: expected four numbers'),
    )
    for degradation, message in of_tests:
        degradation = {**degradation, 'dataroot_gt': str(root / 'clean')}
        with pytest.raises(InputError, match=message):
            build_dataset({'name': 'x', 'type': 'DegradationTestDataset', 'phase': 'test', 'degradation': degradation})


def test_missing_folders_and_lmdbs(root):
    (root / 'empty').mkdir()
    (root / 'foreign.lmdb').mkdir()
    there_is_none = f'noise:dataroot_gt: there is no folder {re.escape(str(root))}/'
    refused(there_is_none + 'none', root, noise={'dataroot_gt': str(root / 'none')})
    refused(there_is_none + 'none.lmdb', root, noise={'dataroot_gt': [str(root / 'clean'), str(root / 'none.lmdb')]})
    refused('noise:dataroot_gt: there are no images in .*empty', root, noise={'dataroot_gt': str(root / 'empty')})
    refused('foreign.lmdb is no LMDB', root, noise={'dataroot_gt': str(root / 'foreign.lmdb')})


def test_lmdbs_that_are_damaged_or_named_otherwise(root, photos, tmp_path):
    path = write_lmdb(tmp_path / 'plain.lmdb', photos).rename(tmp_path / 'plain')
    assert len(build(root, noise={'dataroot_gt': str(path)})) == len(photos)
    (path / 'data.mdb').write_bytes((path / 'data.mdb').read_bytes()[:5000])
    refused('noise:dataroot_gt: .*plain/data.mdb was cut short: 5000 of', root, noise={'dataroot_gt': str(path)})
    (path / 'meta_info.txt').unlink()
    refused('plain is no LMDB in BasicSR.s format', root, noise={'dataroot_gt': str(path)})


def test_a_turned_photograph_fits_its_upright_partner(root, photos):
    """As a camera saves it: the pixels lie on their side, and EXIF says so."""
    photo, turned = photos['coffee2'], PIL.Image.Exif()
    turned[0x0112] = 6
    (root / 'clean' / 'coffee2.png').unlink()
    image = PIL.Image.fromarray(np.rot90(photo))
    image.save(root / 'clean' / 'coffee2.jpg', exif=turned, quality=98, subsampling=0)
    write_image(root / 'rain' / 'coffee2.png', photo)
    paired = {'type': 'PairedImages', 'dataroot_gt': str(root / 'clean'), 'dataroot_lq': str(root / 'rain')}
    test_set = build_dataset({'name': 'x', 'type': 'DegradationTestDataset', 'phase': 'test', 'degradation': paired})
    (item,) = [item for item in test_set if 'coffee2' in item['lq_path']]
    assert cv2.PSNR(item['gt'].numpy(), item['lq'].numpy(), 1) > 35


def test_pairs(root, photos, tmp_path):
    write_image(root / 'rain' / 'alone.png', photos['rocket6'])
    refused('rain: 1 of the 4 degraded images have no clean one in .*alone.png', root)
    (root / 'rain' / 'alone.png').unlink()
    write_image(root / 'rain' / 'coffee2.png', photos['coffee2'][:-2])
    refused('coffee2.png has 104x94 pixels, its clean image .*coffee2.png 104x96', root)
    # An LMDB says so before training starts.
    gt, lq = (write_lmdb(tmp_path / f'{n}.lmdb', {'a': photos['coffee2'][n:]}) for n in (0, 1))
    with pytest.raises(InputError, match='image a in .*1.lmdb has 104x95 pixels, its clean image a in .*0.lmdb 104x96'):
        paired = {'type': 'PairedImages', 'dataroot_gt': str(gt), 'dataroot_lq': str(lq)}
        build_dataset({'name': 'x', 'type': 'DegradationTestDataset', 'phase': 'test', 'degradation': paired})


def test_small_images_are_refused(root, photos, tmp_path):
    small = 'has 104x96 pixels, less than a patch .gt_size: 100'
    refused(f'clean/\\w+.png {small}', root, gt_size=100)
    path = write_lmdb(tmp_path / 'small.lmdb', {'tiny': photos['coffee2']})
    noise = {'type': 'GaussianNoise', 'sigma': 1, 'dataroot_gt': str(path)}
    with pytest.raises(InputError, match=f'image tiny in .*small.lmdb {small}'):
        build_dataset(
            {
                'name': 'x',
                'type': 'MultiDegradationDataset',
                'phase': 'train',
                'gt_size': 100,
                'degradations': {'n': noise},
            }
        )


def test_images_that_are_not_8_bit_rgb(root, photos):
    target = root / 'clean' / 'rocket6.png'
    rgb = photos['rocket6']
    for image, kind in (
        (rgb[..., 0], 'grey, uint8'),
        (np.dstack([rgb, rgb[..., :1]]), 'RGBA, uint8'),
        (rgb.astype(np.uint16) * 257, 'RGB, uint16'),
    ):
        assert cv2.imwrite(str(target), image)
        write_image(root / 'rain' / 'rocket6.png', rgb)
        refused(f'rocket6.png is {kind}; only 8-bit RGB', root)


def test_unreadable_images(root, photos):
    target = root / 'clean' / 'coffee2.png'
    content = target.read_bytes()
    for broken in (b'', b'no picture', content[:40]):
        target.write_bytes(broken)
        refused('coffee2.png cannot be decoded', root)


def test_two_files_of_one_name(root, photos):
    write_image(root / 'clean' / 'coffee2.bmp', photos['coffee2'])
    refused('coffee2.bmp and coffee2.png would be the same image', root)
