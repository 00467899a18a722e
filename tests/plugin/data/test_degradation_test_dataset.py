"""Test images: noise that depends on nothing but the image's name, sigma and seed; protocols; the centre crop."""

import hashlib

import numpy as np
import pytest
from basicsr.data import build_dataset
from conftest import run_python, write_image, write_lmdb

from airnet_basicsr.errors import InputError


@pytest.fixture(scope='module')
def root(tmp_path_factory, photos):
    folder = tmp_path_factory.mktemp('test_images')
    write_lmdb(folder / 'all.lmdb', photos)
    write_lmdb(folder / 'one.lmdb', {'coffee2': photos['coffee2']})
    for key, image in photos.items():
        write_image(folder / 'elsewhere' / f'{key}.bmp', image)
    return folder


def build(dataroot, **changes):
    noise = {'type': 'GaussianNoise', 'sigma': 25, 'protocol': 'float', 'dataroot_gt': str(dataroot)}
    noise |= {key: changes.pop(key) for key in ('sigma', 'protocol') if key in changes}
    opt = {'name': 'test', 'type': 'DegradationTestDataset', 'phase': 'test', 'degradation': noise, **changes}
    return build_dataset(opt)


def named(dataset, stem):
    (item,) = [item for item in dataset if stem in item['lq_path']]
    return item


def test_noise_is_the_same_in_every_order_folder_and_process(root, tmp_path):
    reference = named(build(root / 'all.lmdb'), 'coffee2')['lq'].numpy()
    for other in ('one.lmdb', 'elsewhere'):
        np.testing.assert_array_equal(named(build(root / other), 'coffee2')['lq'].numpy(), reference)
    script = tmp_path / 'noise.py'
    script.write_text(
        'import hashlib, sys, airnet_basicsr.plugin\n'
        'from basicsr.data import build_dataset\n'
        'noise = dict(type="GaussianNoise", sigma=25, protocol="float", dataroot_gt=sys.argv[1])\n'
        'opt = dict(name="x", type="DegradationTestDataset", phase="test", degradation=noise)\n'
        'print(hashlib.sha256(build_dataset(opt)[0]["lq"].numpy().tobytes()).hexdigest())\n'
    )
    out = run_python(script, root / 'one.lmdb', cwd=tmp_path).stdout
    assert out.split()[-1] == hashlib.sha256(reference.tobytes()).hexdigest()


def test_noise_in_a_folder_is_that_in_its_lmdb(tmp_path, photos):
    """Also for names that are no keys, in subfolders, and under the two names that Urban100 has."""
    names = {'plain 1.5': 'plain_1p5', 'deep/coffee': 'deep_coffee', 'img_001_SRF_4_HR': 'img_001'}
    for (name, key), image in zip(names.items(), photos.values(), strict=False):
        write_image(tmp_path / 'folder' / f'{name}.png', image)
        write_lmdb(tmp_path / f'{key}.lmdb', {key: image})
    loose = {item['lq_path']: item['lq'] for item in build(tmp_path / 'folder')}
    for name, key in names.items():
        stored = build(tmp_path / f'{key}.lmdb')[0]['lq']
        np.testing.assert_array_equal(loose[str(tmp_path / 'folder' / f'{name}.png')].numpy(), stored.numpy())


def test_noise_of_a_pixel_does_not_depend_on_what_is_cut(root):
    whole, cut = (named(build(root / 'all.lmdb', crop_multiple=multiple), 'chelsea4') for multiple in (1, 16))
    np.testing.assert_array_equal(cut['lq'].numpy(), whole['lq'].numpy()[:, :, 4:100])


def test_noise_of_a_name_is_what_it_was_when_first_published(root):
    """Numbers reported with one release must be comparable with the next one's."""
    item = named(build(root / 'all.lmdb', protocol='float'), 'coffee2')
    noise = (item['lq'] - item['gt']).numpy()[:, :2, :2] * 255
    expected = np.random.RandomState(PUBLISHED_SEED).standard_normal((96, 104, 3))[:2, :2].transpose(2, 0, 1) * 25
    np.testing.assert_allclose(noise, expected, atol=1e-3)


PUBLISHED_SEED = 4252098946  # crc32 of 'coffee2|25|0'


def test_noise_differs_by_image_sigma_and_seed(root):
    def unit_noise(stem='coffee2', **changes):
        item = named(build(root / 'all.lmdb', **changes), stem)
        return ((item['lq'] - item['gt']) * 255 / changes.get('sigma', 25)).numpy()

    reference = unit_noise()
    assert reference.std() == pytest.approx(1, rel=0.02)
    for other in (unit_noise('coffee3'), unit_noise(sigma=50), unit_noise(seed=1)):
        assert abs(np.corrcoef(reference.ravel(), other.ravel())[0, 1]) < 0.03


def test_protocols(root, photos):
    """`uint8` is `float` clipped and cut to whole numbers: what the release's tests feed."""
    sets = {protocol: build(root / 'all.lmdb', protocol=protocol, sigma=50) for protocol in ('float', 'uint8')}
    items = {protocol: named(dataset, 'rocket6') for protocol, dataset in sets.items()}
    lq = {protocol: item['lq'].numpy() * 255.0 for protocol, item in items.items()}
    np.testing.assert_allclose(lq['uint8'], np.floor(np.clip(lq['float'], 0, 255)), atol=1.01)
    assert np.mean(np.abs(lq['uint8'] - np.floor(np.clip(lq['float'], 0, 255))) < 1e-3) > 0.999
    assert lq['float'].min() < -10
    np.testing.assert_array_equal(np.rint(items['uint8']['gt'].numpy().transpose(1, 2, 0) * 255), photos['rocket6'])


def test_centre_crop(root, photos):
    item = named(build(root / 'all.lmdb', crop_multiple=16), 'chelsea4')
    assert item['lq'].shape == item['gt'].shape == (3, 96, 96)
    np.testing.assert_array_equal(np.rint(item['gt'].numpy().transpose(1, 2, 0) * 255), photos['chelsea4'][:, 4:100])


def test_a_crop_that_leaves_nothing_is_refused(root):
    with pytest.raises(InputError, match=r'one\.lmdb has 104x96 pixels, of which crop_multiple: 128 leaves nothing'):
        build(root / 'one.lmdb', crop_multiple=128)[0]
    for wrong in (0, -16, 1.5, True):
        with pytest.raises(InputError, match='crop_multiple: expected a whole number above 0'):
            build(root / 'one.lmdb', crop_multiple=wrong)


@pytest.mark.parametrize('kind', ['Snow', 'LowLight', 'Blur', 'CameraNoise', 'Resizing', 'Compression'])
def test_every_kind_can_be_tested_alone_and_down_to_one_pixel(kind, tmp_path, photos):
    write_image(tmp_path / 'one.png', photos['coffee2'][:1, :1])
    degradation = {'type': kind, 'dataroot_gt': str(tmp_path)}
    opt = {'name': 'x', 'type': 'DegradationTestDataset', 'phase': 'test', 'degradation': degradation}
    one, again = (build_dataset(opt)[0]['lq'] for _ in range(2))
    assert one.shape == (3, 1, 1) and (one == again).all()


def test_spatially_variant_noise(tmp_path):
    """Table 6: a sigma for each quarter, in reading order; the same noise in every run."""
    write_lmdb(tmp_path / 'grey.lmdb', {'grey': np.full((129, 203, 3), 128, np.uint8)})
    noise = {'type': 'SpatiallyVariantNoise', 'protocol': 'float', 'dataroot_gt': str(tmp_path / 'grey.lmdb')}
    opt = {'name': 'test', 'type': 'DegradationTestDataset', 'phase': 'test', 'degradation': noise}
    lq, again = (build_dataset(opt)[0]['lq'].numpy() * 255 for _ in range(2))
    np.testing.assert_array_equal(lq, again)
    quarters = lq[:, :64, :101], lq[:, :64, 101:], lq[:, 64:, :101], lq[:, 64:, 101:]
    for quarter, sigma in zip(quarters, (0, 15, 25, 50), strict=True):
        assert quarter.std() == pytest.approx(sigma, rel=0.02, abs=1e-3)
